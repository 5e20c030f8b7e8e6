//! The parameters of one picture, each of them optional: the same names in a picture's recipe, in a
//! line of a prompt file and on the command line.

use llm_dit_params::{GenerateOptions, generation_fields};
use serde::{Deserialize, Serialize};

macro_rules! settings {
    // The parameters of an image among the rest, which are declared in llm-dit-params.
    (
        before { $($before:tt)* }
        after { $($after:tt)* }
        generation {
            $($(#[doc = $doc:literal])* $name:ident: $type:ty,
                serde [$($serde:tt)*], flag [$($flag:tt)*], schema [$($schema:tt)*];)*
        }
    ) => {
        settings! {
            $($before)*
            $($(#[doc = $doc])* #[serde($($serde)*)] $name: $type,)*
            $($after)*
        }

        impl Settings {
            /// What is asked of the image in numbers and names.
            #[must_use]
            pub fn options(&self) -> GenerateOptions {
                GenerateOptions { $($name: self.$name.clone()),* }
            }
        }

        impl From<GenerateOptions> for Settings {
            fn from(options: GenerateOptions) -> Self {
                Self { $($name: options.$name,)* ..Self::default() }
            }
        }
    };
    ($($(#[$attribute:meta])* $name:ident: $type:ty,)*) => {
        /// One picture's settings; what is `None` was not said.
        #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
        #[serde(default)]
        pub struct Settings {
            $(
                $(#[$attribute])*
                #[serde(skip_serializing_if = "Option::is_none")]
                pub $name: Option<$type>,
            )*
        }

        impl Settings {
            /// The names, as files and flags have them.
            pub const NAMES: &[&str] = &[$(stringify!($name)),*];

            /// What `self` says, and what `other` says about the rest.
            #[must_use]
            pub fn or(self, other: Self) -> Self {
                Self { $($name: self.$name.or(other.$name)),* }
            }

            /// The part whose names satisfy `keep`.
            #[must_use]
            pub fn only(self, keep: impl Fn(&str) -> bool) -> Self {
                Self { $($name: self.$name.filter(|_| keep(stringify!($name)))),* }
            }

            /// Names of what `self` says and `other` does not say in the same way.
            #[must_use]
            pub fn differences(&self, other: &Self) -> Vec<&'static str> {
                let mut names = Vec::new();
                $(
                    if self.$name.is_some() && self.$name != other.$name {
                        names.push(stringify!($name));
                    }
                )*
                names
            }
        }
    };
}

generation_fields! { settings! {
    before {
    prompt: String,
    negative_prompt: String,
    /// Name of a template. In a recipe the texts below are already what came of it.
    template: String,
    system_prompt: String,
    thinking_content: String,
    assistant_content: String,
    enable_thinking: bool,
    force_think_block: bool,
    strip_quotes: bool,
    raw_special_tokens: bool,
    hidden_layer: i32,
    max_tokens: usize,
    /// Where the chat is cut if it has more tokens.
    truncate: String,
    }
    after {
    /// Path of the init image; in a recipe only its file's name, like those below.
    image: String,
    /// Path of its mask.
    mask: String,
    /// Pixels that are added to the init image on each side, whose part is drawn.
    outpaint: String,
    /// Path of the embeddings that stood for a prompt.
    load_embeddings: String,
    /// Path of the initial noise.
    latents: String,
    }
}}

impl Settings {
    /// The settings with the names of files, without the folders that they were in: those are about
    /// the machine, not about the image.
    #[must_use]
    pub fn without_folders(mut self) -> Self {
        for path in [&mut self.image, &mut self.mask, &mut self.load_embeddings, &mut self.latents]
        {
            if let Some(name) = path.as_deref().map(file_name).map(str::to_owned) {
                *path = Some(name);
            }
        }
        self
    }

    /// The settings without the chat around the prompt.
    #[must_use]
    pub fn without_chat(self) -> Self {
        Self {
            template: None,
            system_prompt: None,
            thinking_content: None,
            assistant_content: None,
            enable_thinking: None,
            force_think_block: None,
            strip_quotes: None,
            raw_special_tokens: None,
            ..self
        }
    }

    /// The settings without empty texts and switches that are off.
    #[must_use]
    pub fn without_blanks(mut self) -> Self {
        for text in [
            &mut self.negative_prompt,
            &mut self.system_prompt,
            &mut self.thinking_content,
            &mut self.assistant_content,
        ] {
            text.take_if(|text| text.is_empty());
        }
        for switch in [
            &mut self.force_think_block,
            &mut self.strip_quotes,
            &mut self.raw_special_tokens,
            &mut self.mask_invert,
        ] {
            switch.take_if(|on| !*on);
        }
        self
    }
}

/// The last part of a path of any system.
pub(crate) fn file_name(path: &str) -> &str {
    let trimmed = path.trim_end_matches(['/', '\\']);
    trimmed.rsplit(['/', '\\']).next().unwrap_or(trimmed)
}
