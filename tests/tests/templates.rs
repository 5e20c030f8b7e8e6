//! The shipped templates: which there are, and whether each does something to a prompt.

use std::{collections::BTreeSet, fs, path::Path};

use llm_dit_chat::{ChatOptions, ChatTokenizer};
use llm_dit_templates::{Library, Template};

/// What each category must hold, short names.
const CATEGORIES: [(&str, &str); 10] = [
    (
        "art",
        "artistic character_design charcoal_dramatic collage digital_concept environment_design \
         fantasy_epic human_anatomy_studies illustration_editorial illustration_storybook \
         ink_sketch mosaic oil_painting_classical oil_painting_impressionist paper_cut pastel_soft \
         stained_glass watercolor_botanical watercolor_loose",
    ),
    (
        "character",
        "character_action character_cinematic character_fullbody_detailed character_minimal \
         character_portrait_detailed character_stylized",
    ),
    (
        "experimental",
        "biopunk dreamcore glitch_art horror_atmospheric hyper_saturated jazz_album metal_album \
         prog_album propaganda pulp_fiction scifi_paperback solarpunk weirdcore",
    ),
    ("general", "default"),
    (
        "photography",
        "architecture_historic architecture_modern cinematic_widescreen double_exposure \
         fashion_editorial food_gourmet harsh_flash landscape_epic landscape_intimate \
         long_exposure macro_extreme photorealistic portrait_environmental portrait_studio \
         product_lifestyle product_shot street_candid tilt_shift",
    ),
    ("structured", "json_structured markdown_structured yaml_structured"),
    (
        "style",
        "3d_render_octane 3d_render_stylized afrofuturism anime_ghibli anime_modern art_deco \
         art_nouveau atompunk bauhaus blue_hour brutalist chinese_ink comic_american cottagecore \
         dark_academia dieselpunk expressionist fog_atmosphere golden_hour low_poly manga_action \
         memphis_design modern_clean neon_cyberpunk noir pixel_art pop_art psychedelic retro_70s \
         retro_80s rim_light soft_diffused steampunk studio_dramatic surrealist ukiyo_e \
         vintage_film",
    ),
    (
        "technical",
        "blueprint color_palette cross_section desaturated_muted duotone high_detail icon_design \
         infographic isometric minimalist monochrome_high_contrast negative_space quality_boost \
         split_tone texture_focus wireframe",
    ),
    ("text", "bilingual_text"),
    (
        "wacky",
        "90s_cgi_nostalgia art_critic_crisis art_student_confident bob_ross_metal \
         boring_movie_poster catalog_uncanny conspiracy_vision cooking_blog corporate_memphis \
         dentist_art hotel_art ikea_fine_art infomercial_chaos instagram_reality liminal_office \
         linkedin_epic mall_memories motivational_unhinged museum_placard nature_doc_mundane \
         powerpoint_peak real_estate renaissance_instagram screensaver_eternal \
         stock_photo_nightmare textbook_diagram vaporwave_deadline victorian_tech \
         wes_anderson_fever yearbook_90s",
    ),
];

/// Those that say what to think.
const THINKING: [&str; 15] = [
    "anime_ghibli",
    "character_design",
    "cinematic_widescreen",
    "comic_american",
    "environment_design",
    "fantasy_epic",
    "food_gourmet",
    "json_structured",
    "markdown_structured",
    "noir",
    "oil_painting_classical",
    "photorealistic",
    "portrait_studio",
    "product_shot",
    "yaml_structured",
];

fn repository() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

fn library() -> Library {
    Library::embedded().expect("the shipped templates are valid")
}

fn said_more_than_nothing(template: &Template) -> bool {
    template.short_name() != "default"
}

#[test]
fn names_and_categories_are_those_of_the_python_program() {
    let library = library();
    let found = library.by_category();
    let names = |templates: &[&Template]| -> BTreeSet<String> {
        templates.iter().map(|t| t.short_name().to_owned()).collect()
    };
    assert_eq!(found.len(), CATEGORIES.len());
    for (category, expected) in CATEGORIES {
        let expected = expected.split_whitespace().map(str::to_owned).collect();
        assert_eq!(names(&found[category]), expected, "{category}");
    }
    assert_eq!(library.iter().count(), 144);
    for template in library.iter() {
        let stem = template.path.file_stem().expect("a file").to_string_lossy().into_owned();
        assert_eq!(template.name, format!("z_image_{stem}"));
        assert_eq!(template.metadata["model"], "z-image", "{stem}");
        assert_eq!(template.metadata.len(), 1, "{stem}: {:?}", template.metadata);
    }
    let thinking: Vec<&str> =
        library.iter().filter(|t| t.thinking_content.is_some()).map(Template::short_name).collect();
    assert_eq!(thinking, THINKING);
    for template in library.iter() {
        let name = template.short_name();
        assert_eq!(template.add_think_block, THINKING.contains(&name), "{name}");
        assert_eq!(template.assistant_content, None, "{name}");
    }
}

#[test]
fn the_embedded_templates_are_the_files() {
    let folder = repository().join("templates/z_image");
    let files = Library::open(&folder).expect("valid");
    let bare = |library: &Library| -> Vec<Template> {
        library.iter().map(|t| Template { path: Default::default(), ..t.clone() }).collect()
    };
    assert_eq!(bare(&library()), bare(&files));
}

#[test]
fn every_template_renders_in_order_and_fits() {
    const PROMPT: &str = "a lighthouse on a cliff above a rough sea, a small boat with red sails, \
                          gulls, and two children on the shore who wave at it";
    let tokenizer =
        ChatTokenizer::from_folder(&repository().join("models/demo/tokenizer")).expect("committed");
    let mut largest = (0, String::new());
    for template in library().iter() {
        let name = template.short_name();
        let chat = template.fill(ChatOptions::default()).chat(PROMPT);
        let mut expected = String::new();
        if said_more_than_nothing(template) {
            let body = &template.system_prompt;
            expected += &format!("<|im_start|>system\n{body}<|im_end|>\n");
        }
        expected += &format!("<|im_start|>user\n{PROMPT}<|im_end|>\n<|im_start|>assistant\n");
        if let Some(thinking) = &template.thinking_content {
            expected += &format!("<think>\n{thinking}\n</think>\n\n");
        }
        assert_eq!(chat.render(), expected, "{name}");
        let counts = tokenizer.count(&chat).expect("well");
        assert!(counts.total <= 512, "{name} takes {} tokens with a long prompt", counts.total);
        largest = largest.max((counts.total, name.to_owned()));
    }
    println!("the largest: {} with {} tokens of the demo tokenizer", largest.1, largest.0);
}

#[test]
fn no_template_is_filler() {
    let library = library();
    let said: Vec<&Template> = library.iter().filter(|t| said_more_than_nothing(t)).collect();
    let words = |text: &str| -> BTreeSet<String> {
        text.split(|c: char| !c.is_alphanumeric())
            .filter(|word| word.len() > 3)
            .map(str::to_lowercase)
            .collect()
    };
    let default = library.get("default").expect("shipped");
    assert_eq!(default.system_prompt, "");
    for template in &said {
        let (name, body) = (template.short_name(), &template.system_prompt);
        let length = body.chars().count();
        assert!((150..=424).contains(&length), "{name}: {length} characters");
        assert!(!body.contains('\n') && !body.contains("  "), "{name} is not one paragraph");
        assert!(body.contains("subject"), "{name} forgets the subject");
        assert!(!body.contains(['{', '}', '<', '"', '\t']), "{name} has markup or quotes");
        assert!(words(body).len() > 22, "{name} says little");
        let description = template.description.chars().count();
        assert!((10..=70).contains(&description), "{name}: description of {description}");
        if let Some(thinking) = &template.thinking_content {
            assert!((200..=600).contains(&thinking.chars().count()), "{name}");
            assert!(!thinking.contains(['"', '<']), "{name}");
        }
    }
    for (i, first) in said.iter().enumerate() {
        for second in &said[i + 1..] {
            let (a, b) = (words(&first.system_prompt), words(&second.system_prompt));
            let shared = a.intersection(&b).count() as f64 / a.len().min(b.len()) as f64;
            let names = (first.short_name(), second.short_name());
            assert!(shared < 0.45, "{names:?} share {shared:.2} of their words");
            assert_ne!(first.description, second.description, "{names:?}");
        }
    }
}

#[test]
fn the_documentation_lists_them_all() {
    let docs = fs::read_to_string(repository().join("docs/guide/templates.md")).expect("committed");
    let library = library();
    let mut expected = Vec::new();
    for (category, templates) in library.by_category() {
        expected.push(format!("### {category} ({})", templates.len()));
        for template in templates {
            expected.push(format!("| `{}` | {} |", template.short_name(), template.description));
        }
    }
    let list = docs.split_once("## The templates").expect("the list's heading").1;
    let found: Vec<&str> =
        list.lines().filter(|line| line.starts_with("### ") || line.starts_with("| `")).collect();
    assert_eq!(found, expected, "replace the list in docs/guide/templates.md");
}
