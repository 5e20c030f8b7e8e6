//! Templates by name.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use include_dir::{Dir, include_dir};
use llm_dit_params::{excerpt, nearest};
use llm_dit_text::NotText;

use crate::{Template, TemplateError, template::short};

static SHIPPED: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/../../templates/z_image");

/// Templates in the order of their names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Library {
    /// By short name.
    templates: BTreeMap<String, Template>,
}

/// No template has this name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no template '{name}'; {}", hint(.nearest.as_deref(), *.known))]
pub struct UnknownTemplate {
    pub name: String,
    pub nearest: Option<String>,
    /// How many there are.
    known: usize,
}

impl Library {
    /// The templates that ship with the program.
    ///
    /// # Errors
    ///
    /// [`TemplateError`] if a shipped template is invalid.
    pub fn embedded() -> Result<Self, TemplateError> {
        let mut library = Self::default();
        for file in SHIPPED.files() {
            let path = Path::new("templates/z_image").join(file.path());
            let text = llm_dit_text::decode(file.contents()).map_err(|e| not_text(&path, e))?;
            library.insert(Template::parse(&path, text)?)?;
        }
        Ok(library)
    }

    /// The shipped templates and, if a folder is named, those in it. One there replaces a shipped
    /// one of the same name.
    ///
    /// # Errors
    ///
    /// [`TemplateError`] as [`Library::open`].
    pub fn load(folder: Option<&Path>) -> Result<Self, TemplateError> {
        let mut library = Self::embedded()?;
        if let Some(folder) = folder {
            library.templates.extend(Self::open(folder)?.templates);
        }
        Ok(library)
    }

    /// The `*.md` templates directly in a folder, without `README.md`.
    ///
    /// # Errors
    ///
    /// [`TemplateError`] if the folder or a file cannot be read, has no templates, or has an
    /// invalid or repeated one.
    pub fn open(folder: &Path) -> Result<Self, TemplateError> {
        let io = |path: &Path| {
            let path = path.to_owned();
            move |cause| TemplateError::Io { path, cause }
        };
        let mut paths: Vec<PathBuf> = Vec::new();
        for entry in fs::read_dir(folder).map_err(io(folder))? {
            let path = entry.map_err(io(folder))?.path();
            let is_readme = path.file_stem().is_some_and(|s| s.eq_ignore_ascii_case("readme"));
            if path.extension().is_some_and(|e| e == "md") && !is_readme && path.is_file() {
                paths.push(path);
            }
        }
        // The order in which errors are found should not depend on the file system.
        paths.sort();
        let mut library = Self::default();
        for path in paths {
            let bytes = fs::read(&path).map_err(io(&path))?;
            let text = llm_dit_text::decode(&bytes).map_err(|e| not_text(&path, e))?;
            library.insert(Template::parse(&path, text)?)?;
        }
        if library.templates.is_empty() {
            return Err(TemplateError::Empty { path: folder.to_owned() });
        }
        Ok(library)
    }

    /// Finds a template by its name, with or without the prefix.
    ///
    /// # Errors
    ///
    /// [`UnknownTemplate`] with the nearest name, if there is no such template.
    pub fn get(&self, name: &str) -> Result<&Template, UnknownTemplate> {
        let wanted = short(name.trim());
        self.templates.get(wanted).ok_or_else(|| UnknownTemplate {
            name: excerpt(name),
            nearest: nearest(&excerpt(wanted), self.templates.keys().map(String::as_str))
                .map(str::to_owned),
            known: self.templates.len(),
        })
    }

    /// All templates, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Template> {
        self.templates.values()
    }

    /// All templates by category, both in alphabetical order.
    pub fn by_category(&self) -> BTreeMap<&str, Vec<&Template>> {
        let mut categories: BTreeMap<&str, Vec<&Template>> = BTreeMap::new();
        for template in self.iter() {
            categories.entry(&template.category).or_default().push(template);
        }
        categories
    }

    fn insert(&mut self, template: Template) -> Result<(), TemplateError> {
        let name = template.short_name().to_owned();
        let path = template.path.clone();
        match self.templates.insert(name.clone(), template) {
            Some(first) => Err(TemplateError::Twice { name, first: first.path, second: path }),
            None => Ok(()),
        }
    }
}

fn not_text(path: &Path, why: NotText) -> TemplateError {
    let line = why.line() as u64;
    TemplateError::Invalid { path: path.to_owned(), line, cause: why.to_string() }
}

fn hint(nearest: Option<&str>, known: usize) -> String {
    match nearest {
        Some(nearest) => format!("did you mean '{nearest}'?"),
        None => format!("'llm-dit templates' lists the {known} that there are"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(folder: &Path, name: &str, text: &str) {
        fs::write(folder.join(name), text).expect("written");
    }

    #[test]
    fn a_name_works_with_and_without_the_prefix() {
        let library = Library::embedded().expect("valid");
        let noir = library.get("noir").expect("shipped");
        assert_eq!(library.get("z_image_noir"), Ok(noir));
        assert_eq!((noir.name.as_str(), noir.category.as_str()), ("z_image_noir", "style"));
        assert_eq!(noir.metadata["model"], "z-image");
    }

    #[test]
    fn an_unknown_name_is_answered_with_the_nearest() {
        let library = Library::embedded().expect("valid");
        for (name, nearest) in [
            ("photorealstic", "photorealistic"),
            ("z_image_noire", "noir"),
            ("Photorealistic", "photorealistic"),
            ("watercolour_loose", "watercolor_loose"),
        ] {
            let error = library.get(name).expect_err("unknown").to_string();
            assert!(error.contains(&format!("'{name}'; did you mean '{nearest}'?")), "{error}");
        }
        let error = library.get("qqq").expect_err("unknown").to_string();
        assert!(error.contains("lists the 144"), "{error}");
        assert!(library.get("").is_err());
    }

    #[test]
    fn a_folder_adds_and_replaces() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path();
        let error = Library::open(path).expect_err("nothing there").to_string();
        assert!(error.contains("contains no templates"), "{error}");
        write(path, "noir.md", "Mine.");
        write(path, "brass.md", "\u{feff}---\ncategory: metal\n---\nBrass.");
        write(path, "README.md", "About these.");
        write(path, "notes.txt", "Not one.");
        assert_eq!(Library::open(path).expect("valid").iter().count(), 2);
        let library = Library::load(Some(path)).expect("valid");
        assert_eq!(library.iter().count(), 145);
        assert_eq!(library.get("z_image_noir").expect("ours").system_prompt, "Mine.");
        assert_eq!(library.by_category()["metal"][0].system_prompt, "Brass.");

        write(path, "second.md", "---\nname: z_image_brass\n---\nTwice.");
        let error = Library::load(Some(path)).expect_err("twice").to_string();
        assert!(error.contains("brass.md") && error.contains("second.md"), "{error}");
        write(path, "second.md", "---\nname: [\n---\n");
        let error = Library::load(Some(path)).expect_err("broken").to_string();
        assert!(error.contains("second.md, line"), "{error}");
        fs::write(path.join("second.md"), [0xff, 0xfe]).expect("written");
        let error = Library::load(Some(path)).expect_err("broken").to_string();
        assert!(error.contains("save it as UTF-8"), "{error}");
        fs::write(path.join("second.md"), b"a\n\xe9").expect("written");
        let error = Library::load(Some(path)).expect_err("broken").to_string();
        assert!(error.contains("line 2") && error.contains("not UTF-8"), "{error}");
        let error = Library::load(Some(&path.join("nowhere"))).expect_err("missing").to_string();
        assert!(error.contains("nowhere"), "{error}");
    }
}
