//! LoRAs of a diffusion service, from outside: the tiny model with real files, and a fake engine
//! where the order of things matters.

use std::{fs, path::Path};

use diffusion_service::{DiffusionHandle, LorasFolder, ServiceLimits, engine::LoraChoice};
use llm_dit_chat::Chat;
use llm_dit_proto::{
    Tensor,
    v1::{
        ApplyLorasRequest, ApplyLorasResponse, ClearLorasRequest, DescribeDiffusionRequest,
        GenerateParams, ListLorasRequest, LoraSelection, LoraSet, TensorRole,
        diffusion_client::DiffusionClient,
    },
};
use llm_dit_serving::Remote;
use llm_dit_serving::client::WithKey;
use llm_dit_testkit::{
    fakes::{Control, FakeGenerator, Seen},
    servers::{Server, fake_encoder, tokenizer},
    wire::{Outcome, chat, outcome, request, tensor},
};
use llm_dit_tests::goldens::Goldens;
use llm_dit_weights::DeviceChoice;
use llm_dit_z_image::{DiffusionOptions, load};
use tempfile::TempDir;
use tonic::{Code, Status};

/// Width of the tiny model's captions, and of the fakes.
const WIDTH: usize = 40;

struct Service {
    _server: Server,
    client: DiffusionClient<WithKey>,
    loras: TempDir,
}

impl Service {
    async fn start(engine: DiffusionHandle, loras: TempDir) -> Self {
        let folder = LorasFolder::open(loras.path()).expect("a folder");
        let server = Server::diffusion(engine.with_loras_folder(Some(folder))).await;
        let client = DiffusionClient::new(server.channel());
        Self { _server: server, client, loras }
    }

    /// The tiny model.
    async fn tiny(loras: TempDir) -> Self {
        Self::start(tiny(Vec::new()), loras).await
    }

    async fn fake(engine: (FakeGenerator, Control), encoder: Option<Remote>) -> (Self, Control) {
        let (engine, control) = engine;
        let handle = DiffusionHandle::spawn(Box::new(engine), ServiceLimits::default(), encoder);
        (Self::start(handle.expect("a thread"), folder()).await, control)
    }

    async fn apply(&mut self, loras: &[(&str, f32)]) -> Result<ApplyLorasResponse, Status> {
        let loras = loras.iter().map(|&(name, scale)| selection(name, scale)).collect();
        Ok(self.client.apply_loras(ApplyLorasRequest { loras }).await?.into_inner())
    }

    async fn clear(&mut self) -> u32 {
        let response = self.client.clear_loras(ClearLorasRequest {}).await.expect("always works");
        response.into_inner().matrices_restored
    }

    async fn picture(&self) -> Vec<u8> {
        picture(self.client.clone(), 1).await
    }

    async fn active(&mut self) -> Vec<String> {
        let described = self.client.describe(DescribeDiffusionRequest {}).await.expect("well");
        described.into_inner().loras.into_iter().map(|lora| lora.name).collect()
    }
}

/// The tiny model with these from the start.
fn tiny(loras: Vec<LoraChoice>) -> DiffusionHandle {
    let (device, dtype) = (DeviceChoice::Cpu, None);
    let options = DiffusionOptions {
        model_path: Goldens::tiny(),
        device,
        dtype,
        loras,
        ..Default::default()
    };
    let engine = load(&options).expect("the tiny model");
    DiffusionHandle::spawn(engine, ServiceLimits::default(), None).expect("a thread")
}

/// A folder with two files, one of them in a folder inside.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    fs::create_dir(folder.path().join("styles")).expect("creates");
    copy("kohya", &folder.path().join("kohya.safetensors"));
    copy("diffusers", &folder.path().join("styles/diffusers.safetensors"));
    folder
}

fn copy(golden: &str, to: &Path) {
    let from = Goldens::folder().join("lora").join(format!("{golden}.safetensors"));
    fs::copy(from, to).expect("copies");
}

fn selection(name: &str, scale: f32) -> LoraSelection {
    LoraSelection { name: name.to_owned(), scale: Some(scale), ..Default::default() }
}

fn embeddings() -> Tensor {
    tensor(&[9, WIDTH], 1)
}

async fn picture(mut client: DiffusionClient<WithKey>, seed: u64) -> Vec<u8> {
    let params = GenerateParams {
        seed: Some(seed),
        steps: Some(2),
        width: Some(64),
        height: Some(64),
        ..Default::default()
    };
    let embeddings = embeddings();
    let request = request(params, &[(TensorRole::Embeddings, &embeddings)]);
    let events = client.generate(request).await.expect("accepted").into_inner();
    outcome(events).await.expect("well").image.to_vec()
}

#[tokio::test]
async fn the_folder_is_listed_with_what_headers_say() {
    let folder = folder();
    fs::write(folder.path().join("broken.safetensors"), b"no").expect("writes");
    fs::write(folder.path().join("readme.txt"), b"no LoRA").expect("writes");
    let outside = tempfile::tempdir().expect("a folder");
    copy("kohya", &outside.path().join("kept.safetensors"));
    #[cfg(unix)]
    {
        use std::os::unix::fs::symlink;
        let elsewhere = outside.path();
        symlink(elsewhere.join("kept.safetensors"), folder.path().join("link.safetensors"))
            .expect("links");
        symlink(elsewhere.join("gone.safetensors"), folder.path().join("nowhere.safetensors"))
            .expect("links");
        symlink(elsewhere, folder.path().join("hub")).expect("links");
        // Round and round.
        symlink(folder.path(), elsewhere.join("back")).expect("links");
    }
    let mut service = Service::tiny(folder).await;
    let listed = service.client.list_loras(ListLorasRequest {}).await.expect("well").into_inner();
    let names: Vec<&str> = listed.files.iter().map(|file| file.name.as_str()).collect();
    let links: &[&str] = if cfg!(unix) {
        &["hub/kept.safetensors", "link.safetensors", "nowhere.safetensors"]
    } else {
        &[]
    };
    let files = ["broken.safetensors", "kohya.safetensors", "styles/diffusers.safetensors"];
    let mut expected: Vec<&str> = files.iter().chain(links).copied().collect();
    expected.sort_unstable();
    assert_eq!(names, expected);
    let file = |name: &str| listed.files.iter().find(|file| file.name == name).expect("listed");
    if cfg!(unix) {
        assert_eq!(file("link.safetensors").problem, None);
        let problem = file("nowhere.safetensors").problem.as_ref().expect("why");
        assert!(problem.contains("nowhere.safetensors"), "{problem}");
    }
    assert!(listed.active.is_empty());
    assert!(file("broken.safetensors").problem.as_ref().expect("why").contains("not valid"));
    let kohya = file("kohya.safetensors");
    let size = fs::metadata(service.loras.path().join("kohya.safetensors")).expect("there").len();
    assert_eq!((kohya.bytes, kohya.rank, kohya.alpha), (size, 2, Some(1.0)));
    // Five blocks of 7, four of them modulated, and 6 at the ends.
    assert_eq!((kohya.modules, kohya.problem.as_deref()), (45, None));
    assert_eq!(file("styles/diffusers.safetensors").alpha, None);

    service.apply(&[("kohya.safetensors", 0.5)]).await.expect("fits");
    let listed = service.client.list_loras(ListLorasRequest {}).await.expect("well").into_inner();
    assert_eq!((listed.active.len(), listed.active[0].scale), (1, 0.5));
}

#[tokio::test]
async fn applied_loras_are_those_of_the_command_line_and_clearing_gives_every_bit_back() {
    let mut service = Service::tiny(folder()).await;
    let plain = service.picture().await;
    let both = [("kohya.safetensors", 0.7), ("styles/diffusers.safetensors", -0.4)];
    let applied = service.apply(&both).await.expect("both fit");
    assert_eq!((applied.matrices_changed, applied.matrices_restored), (45, 0));
    assert_eq!(applied.active.iter().map(|l| l.matrices).collect::<Vec<_>>(), [45, 45]);
    assert_eq!(service.active().await, both.map(|(name, _)| name));
    let changed = service.picture().await;
    assert_ne!(changed, plain);

    let choices = both.map(|(name, scale)| LoraChoice {
        name: name.to_owned(),
        path: service.loras.path().join(name),
        scale,
        trigger_words: String::new(),
        blocks: Default::default(),
        pass: Default::default(),
    });
    let from_the_start = Service::start(tiny(choices.to_vec()), folder()).await;
    assert_eq!(from_the_start.picture().await, changed);

    let fewer = service.apply(&both[1..]).await.expect("fits");
    assert_eq!((fewer.active.len(), fewer.matrices_changed), (1, 45));
    assert_ne!(service.picture().await, changed);
    assert_eq!(service.clear().await, 45);
    assert_eq!(service.active().await, Vec::<String>::new());
    assert_eq!(service.picture().await, plain);
    assert_eq!(service.clear().await, 0);
}

#[tokio::test]
async fn what_cannot_be_applied_changes_nothing() {
    let folder = folder();
    fs::write(folder.path().join("broken.safetensors"), b"no").expect("writes");
    fs::write(folder.path().join("pickle.bin"), b"a pickle, in case somebody opens it")
        .expect("writes");
    let mut service = Service::tiny(folder).await;
    service.apply(&[("kohya.safetensors", 1.0)]).await.expect("fits");
    let before = service.picture().await;
    for (name, scale, code, words) in [
        ("nothing.safetensors", 1.0, Code::NotFound, "ListLoras"),
        ("styles", 1.0, Code::NotFound, "styles"),
        ("broken.safetensors", 1.0, Code::InvalidArgument, "not valid"),
        ("pickle.bin", 1.0, Code::InvalidArgument, "can run code"),
        ("kohya.safetensors", f32::NAN, Code::InvalidArgument, "finite"),
        ("", 1.0, Code::InvalidArgument, "inside"),
    ] {
        let both = [("styles/diffusers.safetensors", 1.0), (name, scale)];
        let status = service.apply(&both).await.expect_err(name);
        assert_eq!(status.code(), code, "{name}: {status}");
        assert!(status.message().contains(words), "{name}: {status}");
        let path = service.loras.path().display().to_string();
        assert!(!status.message().contains(&path), "{name} tells a path: {status}");
        assert_eq!(service.active().await, ["kohya.safetensors"], "{name}");
    }
    let many = vec![("kohya.safetensors", 0.1); 33];
    let status = service.apply(&many).await.expect_err("too many");
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    assert_eq!(service.picture().await, before);
}

#[tokio::test]
async fn names_do_not_lead_out_of_the_folder() {
    let room = tempfile::tempdir().expect("a folder");
    copy("kohya", &room.path().join("secret.safetensors"));
    let inside = tempfile::tempdir_in(room.path()).expect("a folder");
    let absolute = room.path().join("secret.safetensors").display().to_string();
    let mut service = Service::tiny(inside).await;
    for name in [
        "../secret.safetensors",
        "./../secret.safetensors",
        "up/../../secret.safetensors",
        "secret.safetensors\0",
        "/etc/passwd",
        &absolute,
    ] {
        let status = service.apply(&[(name, 1.0)]).await.expect_err(name);
        let expected = [Code::InvalidArgument, Code::NotFound];
        assert!(expected.contains(&status.code()), "{name}: {status}");
        assert!(!status.message().contains("rank"), "{name} was read: {status}");
    }
    assert!(service.active().await.is_empty());
}

/// As `hf download` lays files out: the folder that a person names holds links into another.
#[cfg(unix)]
#[tokio::test]
async fn links_in_the_folder_are_followed() {
    use std::os::unix::fs::symlink;
    let blobs = tempfile::tempdir().expect("a folder");
    copy("kohya", &blobs.path().join("8f3a"));
    let folder = tempfile::tempdir().expect("a folder");
    symlink(blobs.path().join("8f3a"), folder.path().join("link.safetensors")).expect("links");
    symlink(blobs.path().join("gone"), folder.path().join("nowhere.safetensors")).expect("links");
    let mut service = Service::tiny(folder).await;
    service.apply(&[("link.safetensors", 1.0)]).await.expect("is read");
    assert_eq!(service.active().await, ["link.safetensors"]);
    let status = service.apply(&[("nowhere.safetensors", 1.0)]).await.expect_err("leads nowhere");
    assert_eq!(status.code(), Code::NotFound, "{status}");
}

#[tokio::test]
async fn without_a_folder_nothing_can_be_chosen_but_all_can_be_cleared() {
    let path = Goldens::folder().join("lora/kohya.safetensors");
    let name = "kohya.safetensors".to_owned();
    let choice = LoraChoice {
        name,
        path,
        scale: 1.0,
        trigger_words: "ink".to_owned(),
        blocks: Default::default(),
        pass: Default::default(),
    };
    let server = Server::diffusion(tiny(vec![choice])).await;
    let mut client = DiffusionClient::new(server.channel());
    let status = client.list_loras(ListLorasRequest {}).await.expect_err("no folder");
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    let loras = vec![selection("kohya.safetensors", 1.0)];
    let status = client.apply_loras(ApplyLorasRequest { loras }).await.expect_err("no folder");
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    assert!(status.message().contains("--loras-dir"), "{status}");
    let described = client.describe(DescribeDiffusionRequest {}).await.expect("well").into_inner();
    assert_eq!(described.loras[0].trigger_words, "ink");
    let cleared = client.clear_loras(ClearLorasRequest {}).await.expect("works").into_inner();
    assert_eq!(cleared.matrices_restored, 45);
}

#[tokio::test]
async fn a_picture_keeps_the_weights_that_it_began_with() {
    let (mut service, mut control) = Service::fake(FakeGenerator::gated(WIDTH), None).await;
    let running = tokio::spawn(picture(service.client.clone(), 1));
    assert_eq!(control.seen().await, Seen::Began { seed: 1 });
    let mut other = service.client.clone();
    let change = tokio::spawn(async move {
        let loras = vec![selection("kohya.safetensors", 1.0)];
        other.apply_loras(ApplyLorasRequest { loras }).await.map(|_| ())
    });
    // The picture is in the middle of its steps, and nothing has been changed.
    control.permit();
    assert_eq!(control.seen().await, Seen::Step(1));
    assert!(service.active().await.is_empty());
    control.open();
    running.await.expect("no panic");
    change.await.expect("no panic").expect("applied");
    assert_eq!(control.seen().await, Seen::Step(2));
    assert_eq!(control.seen().await, Seen::Finished { seed: 1 });
    assert_eq!(control.seen().await, Seen::Loras(vec!["kohya.safetensors".to_owned()]));
    assert_eq!(service.active().await, ["kohya.safetensors"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_picture_is_made_with_one_set_of_loras() {
    let mut service = Service::tiny(folder()).await;
    let sets: [&[(&str, f32)]; 3] = [
        &[],
        &[("kohya.safetensors", 1.0)],
        &[("kohya.safetensors", 0.5), ("styles/diffusers.safetensors", 1.0)],
    ];
    let mut pictures = Vec::new();
    for set in sets {
        service.apply(set).await.expect("fits");
        pictures.push(service.picture().await);
    }
    let mut running = Vec::new();
    for round in 0..12 {
        running.push(tokio::spawn(picture(service.client.clone(), 1)));
        service.apply(sets[round % sets.len()]).await.expect("fits");
    }
    for picture in running {
        let picture = picture.await.expect("no panic");
        assert!(pictures.contains(&picture), "a picture of half a change");
    }
}

/// What a request says of its LoRAs.
fn set(loras: &[(&str, f32)]) -> Option<LoraSet> {
    Some(LoraSet { loras: loras.iter().map(|&(name, scale)| selection(name, scale)).collect() })
}

/// A picture with LoRAs of its own.
async fn picture_with(
    mut client: DiffusionClient<WithKey>,
    loras: Option<LoraSet>,
) -> Result<Outcome, Status> {
    let (width, height) = (Some(64), Some(64));
    let params = GenerateParams {
        seed: Some(1),
        steps: Some(2),
        width,
        height,
        loras,
        ..Default::default()
    };
    let request = request(params, &[(TensorRole::Embeddings, &embeddings())]);
    outcome(client.generate(request).await?.into_inner()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_request_has_its_own_loras_and_tells_of_them() {
    let folder = folder();
    fs::write(folder.path().join("broken.safetensors"), b"no").expect("writes");
    let mut service = Service::tiny(folder).await;
    let sets: [&[(&str, f32)]; 3] = [
        &[],
        &[("kohya.safetensors", 1.0)],
        &[("kohya.safetensors", 0.5), ("styles/diffusers.safetensors", 1.0)],
    ];
    let mut expected = Vec::new();
    for names in sets {
        service.apply(names).await.expect("fits");
        expected.push(service.picture().await);
    }
    service.apply(sets[1]).await.expect("fits");
    // All at once, with those between them that name none, and a file that fits nothing.
    let mut running = Vec::new();
    for round in 0..12 {
        let client = service.client.clone();
        running.push(tokio::spawn(async move {
            let broken = set(&[("broken.safetensors", 1.0)]);
            let error = picture_with(client.clone(), broken).await.expect_err("no LoRA");
            assert_eq!(error.code(), Code::InvalidArgument, "{error}");
            match round % 4 {
                3 => (1, picture(client, 1).await),
                at => {
                    let made = picture_with(client, set(sets[at])).await.expect("well");
                    let used = made.accepted.params.and_then(|params| params.loras);
                    assert_eq!(used, set(sets[at]));
                    (at, made.image.to_vec())
                }
            }
        }));
    }
    for made in running {
        let (at, picture) = made.await.expect("no panic");
        assert!(picture == expected[at], "the LoRAs of another request");
        let recipe = llm_dit_recipe::read(picture.into()).expect("a PNG").expect("a recipe");
        let told: Vec<_> = recipe.loras.iter().map(|lora| (&*lora.name, lora.scale)).collect();
        assert_eq!(told, sets[at]);
    }
    assert_eq!(service.active().await, ["kohya.safetensors"]);
    for (loras, code) in [
        (set(&[("nothing.safetensors", 1.0)]), Code::NotFound),
        (set(&[("../kohya.safetensors", 1.0)]), Code::InvalidArgument),
        (set(&[("kohya.safetensors", f32::INFINITY)]), Code::InvalidArgument),
        (set(&[(&"n".repeat(70_000), 1.0)]), Code::InvalidArgument),
        (set(&[("kohya.safetensors", 0.1); 33]), Code::InvalidArgument),
    ] {
        let status = picture_with(service.client.clone(), loras).await.expect_err("refused");
        assert_eq!(status.code(), code, "{status}");
        assert!(status.message().len() < 2048);
    }
}

/// The command line may name files outside the folder, and two of one name.
#[tokio::test]
async fn a_request_may_name_what_the_service_was_started_with() {
    let two = [tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder")];
    let choices = ["kohya", "diffusers"].iter().zip(&two).map(|(golden, folder)| {
        let path = folder.path().join("style.safetensors");
        copy(golden, &path);
        let (name, trigger_words) = ("style.safetensors".to_owned(), String::new());
        LoraChoice {
            name,
            path,
            scale: 0.5,
            trigger_words,
            blocks: Default::default(),
            pass: Default::default(),
        }
    });
    let mut service = Service::start(tiny(choices.collect()), folder()).await;
    let default = service.picture().await;
    let named = set(&[("style.safetensors", 0.5), ("style.safetensors", 0.5)]);
    let made = picture_with(service.client.clone(), named).await.expect("well");
    assert!(made.image == default);
    assert_eq!(service.clear().await, 45);
    let first = set(&[("style.safetensors", 1.0)]);
    let made = picture_with(service.client.clone(), first).await.expect("well").image;
    let same = picture_with(service.client.clone(), set(&[("kohya.safetensors", 1.0)])).await;
    let pixels = |png: &[u8]| image::load_from_memory(png).expect("a PNG").into_rgb8().into_raw();
    assert!(pixels(&made) == pixels(&same.expect("well").image));
}

#[tokio::test]
async fn trigger_words_go_before_a_bare_prompt() {
    let (handle, mut jobs) = fake_encoder(WIDTH);
    let encoder = Server::encoder(handle).await;
    let engine = FakeGenerator::free(WIDTH);
    let (mut service, _control) = Service::fake(engine, Some(encoder.remote("encoder"))).await;
    let ids = |text: &str| tokenizer().tokenize(&Chat::user(text), 512).expect("fits").ids;
    let words = |name: &str, words: &str| LoraSelection {
        trigger_words: words.to_owned(),
        blocks: Default::default(),
        ..selection(name, 1.0)
    };
    let loras = vec![
        words("kohya.safetensors", " ink wash "),
        selection("kohya.safetensors", 0.1),
        words("styles/diffusers.safetensors", "by hand"),
    ];
    let applied = service.client.apply_loras(ApplyLorasRequest { loras }).await.expect("fits");
    assert_eq!(applied.into_inner().active[0].trigger_words, "ink wash");
    let params = GenerateParams {
        prompt: Some(chat("a fox")),
        negative_prompt: Some("blurry".to_owned()),
        guidance_scale: Some(1.0),
        ..Default::default()
    };
    let events = service.client.generate(request(params.clone(), &[])).await.expect("accepted");
    outcome(events.into_inner()).await.expect("well");
    assert_eq!(jobs.recv().await.expect("a job").token_ids, ids("ink wash by hand a fox"));
    assert_eq!(jobs.recv().await.expect("a job").token_ids, ids("blurry"));

    // Those of the request's own set, whatever the default is.
    let own = LoraSet { loras: vec![words("kohya.safetensors", "pencil")] };
    let params = GenerateParams { guidance_scale: None, loras: Some(own), ..params };
    let events = service.client.generate(request(params.clone(), &[])).await.expect("accepted");
    outcome(events.into_inner()).await.expect("well");
    assert_eq!(jobs.recv().await.expect("a job").token_ids, ids("pencil a fox"));

    service.clear().await;
    let params = GenerateParams { loras: None, ..params };
    let events = service.client.generate(request(params, &[])).await.expect("accepted");
    outcome(events.into_inner()).await.expect("well");
    assert_eq!(jobs.recv().await.expect("a job").token_ids, ids("a fox"));
}
