//! The terminal while `weir top` has it: raw, with the alternate screen, and as it was before at the end,
//! whatever the end is.

use std::{
    io,
    sync::{Arc, Mutex},
    thread,
};

use ratatui::{
    DefaultTerminal,
    crossterm::{cursor::Show, execute},
};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM},
    iterator::Signals,
    low_level::emulate_default_handler,
};

use crate::sync::lock;

/// Signals that end a program. Of a key, Ctrl-C is none while the terminal is raw.
const ENDS: [i32; 4] = [SIGHUP, SIGINT, SIGQUIT, SIGTERM];

/// Restores the terminal when dropped. ratatui's hook does so before a panic is reported.
pub(super) struct Terminal {
    terminal: DefaultTerminal,
    /// Held while something is drawn, and for good by the thread that ends the process.
    drawing: Arc<Mutex<()>>,
}

// === impl Terminal ===

impl Terminal {
    /// Takes the terminal of stdout.
    ///
    /// # Errors
    /// If it cannot be set, or no thread be started.
    pub(super) fn take() -> io::Result<Self> {
        let drawing = Arc::new(Mutex::new(()));
        restore_at_signals(Arc::clone(&drawing))?;
        Ok(Self { terminal: ratatui::try_init()?, drawing })
    }

    /// Draws what has changed.
    ///
    /// # Errors
    /// Those of the terminal.
    pub(super) fn draw(&mut self, render: impl FnOnce(&mut ratatui::Frame<'_>)) -> io::Result<()> {
        let _drawing = lock(&self.drawing);
        self.terminal.draw(render).map(drop)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        restore();
    }
}

// === helpers ===

/// As it was, with the cursor, which drawing has hidden. Where the terminal is gone nothing can be done.
fn restore() {
    ratatui::restore();
    let _ = execute!(io::stdout(), Show);
}

/// A thread, and not a flag that the loop reads: a loop that waits for a terminal that is gone reads none.
fn restore_at_signals(drawing: Arc<Mutex<()>>) -> io::Result<()> {
    let mut signals = Signals::new(ENDS)?;
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for signal in &mut signals {
            let _drawing = lock(&drawing);
            restore();
            // Does not return: the process ends by this signal, as its parent expects.
            let _ = emulate_default_handler(signal);
        }
    })?;
    Ok(())
}
