//! Parses the command line, runs one verb and maps its outcome to an exit code.

fn main() -> std::process::ExitCode {
    weir::cli::main()
}
