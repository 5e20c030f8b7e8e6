//! A picture that is done: its file, and what is said of it.

use std::{
    io::{self, IsTerminal as _},
    path::{Path, PathBuf},
};

use llm_dit_files::{Published, Staged};

use super::{
    finish::{self, Finished},
    item::Item,
    names,
    report::Told,
    studio::Made,
};
use crate::{args::GenerateArgs, error::CliError, output::print, preview, progress::Progress};

/// Writes pictures and tells of them.
pub struct Deliveries<'a> {
    args: &'a GenerateArgs,
    json: bool,
    progress: &'a Progress,
    show: bool,
    /// Number of the name that was free last; names of one run are looked for from there.
    number: usize,
}

impl<'a> Deliveries<'a> {
    pub fn new(args: &'a GenerateArgs, json: bool, progress: &'a Progress) -> Self {
        let show = !json && preview::wanted(&args.files, args.quiet);
        Self { args, json, progress, show, number: 1 }
    }

    /// Writes one picture and tells of it.
    ///
    /// # Errors
    ///
    /// [`CliError`] if the file, or stdout, cannot be written.
    pub fn deliver(&mut self, item: &Item, made: Made) -> Result<(), CliError> {
        let Made { png, prompt, said, notes, times, truncated } = made;
        let Finished { file, recipe, note } =
            finish::finish(png, item, prompt, self.args.files.quality)?;
        let is_stdout = llm_dit_files::is_stdout(&item.output);
        let path = self.write(item, &file)?;
        let shown = if is_stdout { "stdout".to_owned() } else { path.display().to_string() };
        let note = note.map(|note| format!("{shown}: {note}"));
        let notes: Vec<String> = notes.into_iter().chain(note).collect();
        notes.iter().for_each(|note| self.progress.note(note));
        let seed = item.settings.seed.unwrap_or_default();
        self.progress.picture(&format!("{shown}: {said}"), &format!("{shown}: seed {seed}"));
        if self.json {
            let format = item.format.name();
            let size = llm_dit_pictures::size(&file).map_err(CliError::failed)?;
            let told = Told::new(shown, format, &recipe, truncated, times, &notes).sized(size);
            let line = serde_json::to_string(&told).map_err(CliError::failed)?;
            self.progress.suspend(|| print(&format!("{line}\n")))?;
        } else if !is_stdout && (self.args.quiet || !io::stdout().is_terminal()) {
            // On a terminal the line above has the name.
            self.progress.suspend(|| print(&format!("{shown}\n")))?;
        }
        if self.show {
            let pixels = finish::pixels(&file)?;
            let shown = self.progress.suspend(|| preview::show(&pixels, &self.args.files.terminal));
            if let Err(why) = shown {
                self.progress.note(&format!("no preview: {why}"));
            }
        }
        Ok(())
    }

    fn write(&mut self, item: &Item, file: &[u8]) -> Result<PathBuf, CliError> {
        let staged = llm_dit_files::stage(&item.output, file).map_err(CliError::failed)?;
        if item.is_named {
            staged.publish().map_err(CliError::failed)?;
            return Ok(item.output.clone());
        }
        let (path, number) = publish_free(staged, &item.output, self.number)?;
        self.number = number;
        Ok(path)
    }
}

/// Gives a file the first name that is free: `image.png`, `image-2.png` and so on, from that
/// number. Returns the name and its number.
///
/// # Errors
///
/// [`CliError`] if the file cannot be renamed.
pub fn publish_free(
    mut staged: Staged,
    first: &Path,
    from: usize,
) -> Result<(PathBuf, usize), CliError> {
    let mut number = from;
    loop {
        let path = names::numbered(first, number);
        match staged.publish_new(&path).map_err(CliError::failed)? {
            Published::Done => return Ok((path, number)),
            Published::Taken(again) => staged = again,
        }
        number += 1;
    }
}
