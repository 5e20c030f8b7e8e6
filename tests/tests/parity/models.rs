//! Two models in one service, in turn, within one memory budget.

use std::ops::ControlFlow;

use diffusion_service::{
    DiffusionHandle, Event, ServiceLimits,
    engine::{About, Engines, GenerateJob, Generated, ImageGenerator, ModelInfo, Step},
};
use llm_dit_fault::Fault;
use llm_dit_params::GenerateOptions;
use llm_dit_testkit::{repository, wire::tensor};
use llm_dit_tests::{demo::blueprint, goldens::Goldens};
use llm_dit_weights::DeviceChoice;
use llm_dit_z_image::{DiffusionOptions, load, load_all};
use tokio_util::sync::CancellationToken;

const MODELS: [&str; 2] = ["demo", "tiny"];

fn options() -> DiffusionOptions {
    DiffusionOptions {
        model_path: repository("models/demo"),
        device: DeviceChoice::Cpu,
        ..Default::default()
    }
}

fn engines(budget: Option<u64>) -> Result<Engines, diffusion_service::engine::EnginesError> {
    let models =
        vec![("demo".to_owned(), repository("models/demo")), ("tiny".to_owned(), Goldens::tiny())];
    Engines::new(load_all(&options(), models, budget.is_some()).expect("both models"), budget)
}

/// The bytes of either.
fn sizes() -> [u64; 2] {
    let tiny = DiffusionOptions { model_path: Goldens::tiny(), ..options() };
    [options(), tiny].map(|options| load(&options).expect("a model").weight_bytes())
}

fn job(info: &ModelInfo, seed: u64) -> GenerateJob {
    let options = GenerateOptions {
        width: Some(64),
        height: Some(64),
        steps: Some(2),
        seed: Some(seed),
        ..Default::default()
    };
    let mut params = options.resolve(&info.defaults, &info.limits).expect("valid");
    params.model = Some(info.model.clone());
    GenerateJob {
        params,
        loras: Vec::new(),
        embeddings: tensor(&[9, info.cap_feat_dim], 1),
        negative_embeddings: None,
        latents: None,
        image: None,
        mask: None,
        return_latents: true,
        preview: None,
    }
}

fn draw(engine: &mut dyn ImageGenerator, job: GenerateJob) -> Generated {
    let job = engine.info().check(job).expect("fits");
    engine.generate(&job, &mut |_: Step| ControlFlow::Continue(())).expect("an image")
}

#[test]
fn images_of_alternating_models_are_those_of_each_model_alone() {
    let [demo, tiny] = sizes();
    // One of them at a time.
    let budget = demo.max(tiny);
    let mut both = engines(Some(budget)).expect("each fits alone");
    assert_eq!(both.loaded_bytes(), 0, "nothing is loaded before its first use");
    let infos = both.infos();
    let tiny = DiffusionOptions { model_path: Goldens::tiny(), ..options() };
    let mut alone = [options(), tiny].map(|options| load(&options).expect("a model"));
    for seed in 0..2 {
        for at in [0, 1] {
            let engine = both.turn(Some(MODELS[at])).expect("a known model");
            let made = draw(engine, job(&infos[at], seed));
            let expected = draw(alone[at].as_mut(), job(&infos[at], seed));
            assert_eq!(made.picture, expected.picture, "{} {seed}", MODELS[at]);
            assert_eq!(made.latents, expected.latents, "{} {seed}", MODELS[at]);
            let loaded = both.loaded_bytes();
            assert!(0 < loaded && loaded <= budget, "{loaded} of {budget}");
        }
    }
}

#[test]
fn a_model_that_was_unloaded_comes_back_with_its_loras() {
    let [demo, tiny] = sizes();
    let mut both = engines(Some(demo.max(tiny))).expect("each fits alone");
    let infos = both.infos();
    let with_lora = |both: &mut Engines| {
        let engine = both.turn(None).expect("the default model");
        engine.set_loras(&[blueprint()]).expect("it fits");
        draw(engine, job(&infos[0], 1))
    };
    let before = with_lora(&mut both);
    draw(both.turn(Some("tiny")).expect("tiny"), job(&infos[1], 1));
    let engine = both.turn(None).expect("the default model");
    assert_eq!(engine.loras().len(), 1);
    let after = draw(engine, job(&infos[0], 1));
    assert_eq!(after.latents, before.latents);
    engine.set_loras(&[]).expect("clears");
    assert_ne!(draw(engine, job(&infos[0], 1)).latents, before.latents);
}

#[test]
fn a_budget_below_the_largest_model_is_refused() {
    let [demo, tiny] = sizes();
    let smallest = demo.max(tiny);
    let error = engines(Some(smallest - 1)).expect_err("too little").to_string();
    assert!(error.ends_with(&format!("the smallest that can work is {smallest}")), "{error}");
}

#[tokio::test]
async fn a_service_lists_its_models_and_refuses_others() {
    let engines = engines(None).expect("no limit");
    let handle =
        DiffusionHandle::spawn_all(engines, ServiceLimits::default(), None).expect("a thread");
    let description = handle.describe();
    assert_eq!(description.model, "demo");
    let others: Vec<&str> = description.others.iter().map(|other| &*other.model).collect();
    assert_eq!(others, ["tiny"]);

    let info = handle.info_of(Some("tiny")).expect("it is there").clone();
    let mut events =
        handle.generate(job(&info, 1), &CancellationToken::new()).await.expect("accepted");
    let mut images = 0;
    while let Some(event) = events.next().await {
        images += usize::from(matches!(event.expect("well"), Event::Image(_)));
    }
    assert_eq!(images, 1);

    let mut unknown = job(&info, 1);
    unknown.params.model = Some("vast".to_owned());
    let Err(error) = handle.generate(unknown, &CancellationToken::new()).await else {
        panic!("it was accepted");
    };
    assert!(matches!(&error, Fault::NotFound(why) if why.contains("'demo' or 'tiny'")), "{error}");
}

/// The demo model's folder with other words about the model, and nothing else of its own.
fn demo_that_says(about: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for part in std::fs::read_dir(repository("models/demo")).expect("the demo model") {
        let part = part.expect("a part");
        if part.file_name() != "about.json" {
            std::os::unix::fs::symlink(part.path(), folder.path().join(part.file_name()))
                .expect("a link");
        }
    }
    std::fs::write(folder.path().join("about.json"), about).expect("written");
    folder
}

#[test]
fn a_model_says_of_itself_what_its_folder_says() {
    let about = load(&options()).expect("the demo model").info().about;
    assert!(about.description.contains("toy"), "{about:?}");
    assert!(about.examples.len() >= 4, "{about:?}");
    let tiny = DiffusionOptions { model_path: Goldens::tiny(), ..options() };
    assert_eq!(load(&tiny).expect("a model").info().about, About::default());
    let other =
        DiffusionOptions { dit_path: Some(repository("models/demo/transformer")), ..options() };
    let about = load(&other).expect("a model").info().about;
    assert_eq!(about, About::default(), "the words are the folder's transformer's");
}

#[test]
fn words_about_a_model_that_no_page_can_show_are_refused_by_name() {
    let long = "x".repeat(1001);
    for (about, expected) in [
        (r#"{"description": 1}"#.to_owned(), "description"),
        (r#"{"describtion": "x"}"#.to_owned(), "describtion"),
        (format!(r#"{{"description": "{long}"}}"#), "description has 1001 characters"),
        (r#"{"examples": ["a cat", " "]}"#.to_owned(), "examples[1]"),
        (format!(r#"{{"examples": [{}]}}"#, ["\"a\""; 17].join(",")), "examples has 17 prompts"),
        ("{".to_owned(), "about.json"),
    ] {
        let folder = demo_that_says(&about);
        let options = DiffusionOptions { model_path: folder.path().to_owned(), ..options() };
        let error = load(&options).err().expect("refused").to_string();
        assert!(error.contains("about.json"), "{error}");
        // The wrong type is told by its place.
        assert!(error.contains(expected) || error.contains("line 1"), "{about}: {error}");
    }
}
