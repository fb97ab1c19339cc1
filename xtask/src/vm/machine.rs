//! A virtual machine: QEMU with a kernel, an initramfs and two disks. Its console goes to a file,
//! what the guest reports comes line by line, and it ends in time.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::console::{tail, troubles};
use super::protocol::Heard;

const QEMU: &str = "qemu-system-x86_64";

/// A guest under KVM says its first word within a second or two, and one that cannot run never.
const KVM_LIMIT: Duration = Duration::from_secs(20);

/// How often the console is looked at.
const GLANCE: Duration = Duration::from_secs(1);

/// What runs the guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(super) enum Accelerator {
    /// The processor.
    Kvm,
    /// QEMU's translator; ten to twenty times slower.
    Tcg,
}

/// What to boot.
pub(super) struct Machine {
    /// The kernel.
    pub(super) kernel: PathBuf,
    /// Its first file system.
    pub(super) initramfs: PathBuf,
    /// What the guest finds as vda, vdb; never written to.
    pub(super) disks: Vec<PathBuf>,
    /// Where the kernel's console goes.
    pub(super) console: PathBuf,
    /// What runs it.
    pub(super) accelerator: Accelerator,
}

/// Bounds of a run.
pub(super) struct Limits {
    /// For everything.
    pub(super) total: Duration,
    /// Without a word of the guest.
    pub(super) silence: Duration,
}

/// How the machine ended.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(super) enum Ended {
    /// It powered off, or rebooted after a panic.
    Off,
    /// It was ended after this long without a word.
    Silent(Duration),
    /// It was ended because its time was up.
    Late(Duration),
}

// === impl Accelerator ===

impl Accelerator {
    /// KVM where it really boots this kernel: `/dev/kvm` may be there and not do it, in a machine
    /// that is virtual itself.
    pub(super) fn choose(kernel: &Path, initramfs: &Path, console: &Path) -> Self {
        if fs::File::options().read(true).write(true).open("/dev/kvm").is_err() {
            println!("no /dev/kvm that can be used: TCG");
            return Self::Tcg;
        }
        let machine = Machine {
            kernel: kernel.into(),
            initramfs: initramfs.into(),
            disks: Vec::new(),
            console: console.into(),
            accelerator: Self::Kvm,
        };
        let mut alive = false;
        let limits = Limits { total: KVM_LIMIT, silence: KVM_LIMIT };
        let ended = machine.run(" weir.probe", &limits, |heard| {
            alive |= matches!(heard, Heard::Alive(_));
        });
        match ended {
            Ok(_) if alive => return Self::Kvm,
            Ok(ended) => println!("/dev/kvm does not run this kernel ({ended}): TCG"),
            Err(error) => println!("/dev/kvm cannot be used ({error:#}): TCG"),
        }
        Self::Tcg
    }

    fn arguments(self) -> [&'static str; 4] {
        match self {
            Self::Kvm => ["-accel", "kvm", "-cpu", "host"],
            // Five levels of page tables would be five to walk.
            Self::Tcg => ["-accel", "tcg,thread=multi", "-cpu", "max,la57=off"],
        }
    }
}

impl std::fmt::Display for Accelerator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Kvm => "KVM",
            Self::Tcg => "TCG",
        })
    }
}

// === impl Machine ===

impl Machine {
    /// Boots and listens until the machine ends, or has to be ended.
    ///
    /// # Errors
    ///
    /// Fails when QEMU cannot be started.
    pub(super) fn run(
        &self,
        more: &str,
        limits: &Limits,
        mut heard: impl FnMut(Heard<'_>),
    ) -> Result<Ended> {
        let mut qemu = Qemu::start(self, more)?;
        let stdout = qemu.0.stdout.take().context("stdout was asked for")?;
        let (tell, told) = channel();
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(stdout).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line);
                if tell.send(line.trim_end_matches('\r').to_owned()).is_err() {
                    break;
                }
            }
        });
        let (begin, mut last, mut shown) = (Instant::now(), Instant::now(), 0);
        let ended = loop {
            match told.recv_timeout(GLANCE) {
                Ok(line) => {
                    last = Instant::now();
                    heard(Heard::parse(&line));
                }
                Err(RecvTimeoutError::Disconnected) => break Ended::Off,
                Err(RecvTimeoutError::Timeout) => {}
            }
            shown = self.show_trouble(shown);
            if begin.elapsed() > limits.total {
                break Ended::Late(limits.total);
            }
            if last.elapsed() > limits.silence {
                break Ended::Silent(limits.silence);
            }
        };
        drop(qemu);
        let _never_panics = reader.join();
        self.show_trouble(shown);
        Ok(ended)
    }

    /// What the console has to say, as text.
    pub(super) fn log(&self) -> String {
        let bytes = fs::read(&self.console).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The console's last lines.
    pub(super) fn last_words(&self) -> String {
        tail(&self.log(), 20).join("\n")
    }

    /// Prints complaints beyond the first `shown`; how many there are.
    fn show_trouble(&self, shown: usize) -> usize {
        let log = self.log();
        let troubles = troubles(&log);
        for (kind, line) in troubles.iter().skip(shown) {
            println!("  kernel: {kind}: {line}");
        }
        troubles.len()
    }
}

// === impl Ended ===

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Off => f.write_str("it went off"),
            Self::Silent(limit) => write!(f, "no word for {} s", limit.as_secs()),
            Self::Late(limit) => write!(f, "not done within {} s", limit.as_secs()),
        }
    }
}

/// A running QEMU; killed on drop.
struct Qemu(Child);

// === impl Qemu ===

impl Qemu {
    fn start(machine: &Machine, more: &str) -> Result<Self> {
        if let Some(dir) = machine.console.parent() {
            fs::create_dir_all(dir)?;
        }
        // It must not outlive us, however we end.
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "--", QEMU])
            .args(["-M", "q35", "-smp", "2", "-m", "2048"])
            .args(machine.accelerator.arguments())
            .args(["-nodefaults", "-no-reboot", "-display", "none", "-device", "virtio-rng-pci"])
            .arg("-serial")
            .arg(format!("file:{}", machine.console.display()))
            .args(["-serial", "stdio", "-kernel"])
            .arg(&machine.kernel)
            .arg("-initrd")
            .arg(&machine.initramfs)
            .arg("-append")
            .arg(format!("console=ttyS0 quiet panic=-1 random.trust_cpu=on{more}"));
        for disk in &machine.disks {
            // What the guest writes goes to a temporary file.
            let drive = format!("file={},format=raw,if=virtio,snapshot=on", disk.display());
            command.arg("-drive").arg(drive);
        }
        let errors = fs::File::create(machine.console.with_extension("qemu"))?;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(errors);
        let child = command.spawn().with_context(|| format!("cannot run {QEMU}"))?;
        Ok(Self(child))
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        let _gone_already = self.0.kill();
        let _reaped_already = self.0.wait();
    }
}
