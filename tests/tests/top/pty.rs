//! A program in a pseudo-terminal, whose screen is read as a terminal emulator shows it.

use std::{
    fs::File,
    io::{Read, Write},
    os::fd::{AsFd, OwnedFd},
    process::{Child, Command, ExitStatus},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
};

use anyhow::{Context, Result};
use nix::{
    pty::{Winsize, openpty},
    sys::{
        signal::{Signal, kill},
        termios::{LocalFlags, tcgetattr},
    },
    unistd::Pid,
};
use weir_tests::{process::wait_until, site::PATIENCE};

/// The program, killed on drop.
pub(crate) struct Pty {
    child: Child,
    terminal: File,
    /// Held open, so that the modes of the terminal can be read after the program's end.
    slave: OwnedFd,
    screen: Arc<Mutex<vt100::Parser>>,
}

// === impl Pty ===

impl Pty {
    /// Starts a program on a terminal of its own, with so many columns and rows.
    pub(crate) fn start(command: &Command, columns: u16, rows: u16) -> Result<Self> {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(Some(&size), None).context("cannot open a pseudo-terminal")?;
        // setsid(1) makes it the controlling terminal: a change of the size is a signal then.
        let mut within = Command::new("setsid");
        within.arg("--ctty").arg(command.get_program()).args(command.get_args());
        // It stays in this test's group: a group's leader would fork for a session of its own.
        let child = within
            .env("TERM", "xterm-256color")
            .env_remove("NO_COLOR")
            .stdin(pty.slave.try_clone()?)
            .stdout(pty.slave.try_clone()?)
            .stderr(pty.slave.try_clone()?)
            .spawn()
            .context("cannot start setsid")?;
        let screen = Arc::new(Mutex::new(vt100::Parser::new(rows, columns, 0)));
        let terminal = File::from(pty.master);
        let (mut output, shown) = (terminal.try_clone()?, Arc::clone(&screen));
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(read @ 1..) = output.read(&mut bytes) {
                shown.lock().unwrap_or_else(PoisonError::into_inner).process(&bytes[..read]);
            }
        });
        Ok(Self { child, terminal, slave: pty.slave, screen })
    }

    /// What is on the screen.
    pub(crate) fn text(&self) -> String {
        self.parser().screen().contents()
    }

    /// The rows of the screen, as wide as it is.
    pub(crate) fn rows(&self) -> Vec<String> {
        let parser = self.parser();
        let (_, columns) = parser.screen().size();
        parser.screen().rows(0, columns).collect()
    }

    /// Whether the program has the terminal for itself: the alternate screen, no cursor, raw.
    pub(crate) fn is_taken(&self) -> Result<bool> {
        let modes = tcgetattr(self.slave.as_fd())?.local_flags;
        let is_raw = !modes.intersects(LocalFlags::ICANON | LocalFlags::ECHO);
        let parser = self.parser();
        Ok(parser.screen().alternate_screen() && parser.screen().hide_cursor() && is_raw)
    }

    /// Whether it is as before: the usual screen with a cursor, and lines that are echoed.
    pub(crate) fn is_restored(&self) -> Result<bool> {
        let modes = tcgetattr(self.slave.as_fd())?.local_flags;
        let is_cooked = modes.contains(LocalFlags::ICANON | LocalFlags::ECHO);
        let parser = self.parser();
        Ok(!parser.screen().alternate_screen() && !parser.screen().hide_cursor() && is_cooked)
    }

    /// Waits until the screen has the text.
    pub(crate) fn wait_for(&self, text: &str) -> Result<()> {
        wait_until(&format!("{text:?} on the screen"), PATIENCE, || Ok(self.text().contains(text)))
            .with_context(|| self.text())
    }

    /// Types.
    pub(crate) fn keys(&mut self, keys: &str) -> Result<()> {
        self.terminal.write_all(keys.as_bytes()).context("cannot type")
    }

    /// Changes the size; the kernel tells the program.
    pub(crate) fn resize(&self, columns: u16, rows: u16) -> Result<()> {
        let size =
            rustix::termios::Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        self.parser().screen_mut().set_size(rows, columns);
        rustix::termios::tcsetwinsize(&self.terminal, size).context("cannot change the size")
    }

    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).context("it is gone")
    }

    /// Waits for its end.
    pub(crate) fn wait(&mut self) -> Result<ExitStatus> {
        let mut status = None;
        wait_until("the program to end", PATIENCE, || {
            status = self.child.try_wait()?;
            Ok(status.is_some())
        })
        .with_context(|| self.text())?;
        status.context("no status")
    }

    fn parser(&self) -> MutexGuard<'_, vt100::Parser> {
        self.screen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Pty {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
