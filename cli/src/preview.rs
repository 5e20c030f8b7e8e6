//! Shows pictures in terminals that support it.

use std::io::{IsTerminal as _, Write as _};

use image::DynamicImage;

use crate::args::{OutputArgs, PreviewWhen};

/// Terminals by name that draw pictures and answer when they are asked how. Others are not asked,
/// even with `--preview`: one that never answers would keep the program waiting for ever.
const DRAWING: [&str; 5] = ["kitty", "ghostty", "foot", "mlterm", "contour"];

/// Rows of a preview, at most.
const ROWS: u16 = 24;

/// Whether to show pictures on stdout. Never in a pipe, whatever the flag says.
pub fn wanted(args: &OutputArgs, quiet: bool) -> bool {
    if !std::io::stdout().is_terminal() {
        return false;
    }
    match args.preview {
        PreviewWhen::Never => false,
        PreviewWhen::Always => true,
        PreviewWhen::Auto => {
            !quiet
                && std::io::stderr().is_terminal()
                && (draws(&args.terminal) || viuer::is_iterm_supported())
        }
    }
}

fn draws(terminal: &str) -> bool {
    DRAWING.iter().any(|known| terminal.contains(known))
}

/// Shows a picture: as pixels if the terminal has a protocol for them, as half blocks otherwise.
///
/// # Errors
///
/// The reason, if the terminal cannot be written.
pub fn show(picture: &DynamicImage, terminal: &str) -> Result<(), String> {
    let (columns, rows) = viuer::terminal_size();
    let rows = rows.saturating_sub(4).clamp(4, ROWS);
    // A cell is about twice as high as it is wide.
    let width = u32::from(rows) * 2 * picture.width() / picture.height().max(1);
    let width = width.clamp(2, u32::from(columns.max(2)));
    let config = viuer::Config {
        absolute_offset: false,
        // Both ask the terminal first, and wait for its answer.
        use_kitty: draws(terminal),
        use_sixel: draws(terminal),
        width: Some(width),
        height: (width < u32::from(columns)).then_some(u32::from(rows)),
        ..Default::default()
    };
    viuer::print(picture, &config).map_err(|e| e.to_string())?;
    std::io::stdout().flush().map_err(|e| e.to_string())
}
