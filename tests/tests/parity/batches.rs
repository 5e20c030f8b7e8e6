//! Pictures that are made together: who goes with whom, who leaves, and that each is the picture it
//! would have been alone.

use std::{cell::RefCell, ops::ControlFlow};

use diffusion_service::{
    DiffusionHandle, Event, Events, ServiceLimits,
    engine::{
        BatchLimit, CheckedJob, GenerateError, GenerateJob, Generated, ImageGenerator, LoraChoice,
        Member, Picture, Step,
    },
};
use llm_dit_fault::Fault;
use llm_dit_params::{GenerateOptions, LoraPass, Scheduler};
use llm_dit_proto::{DType, Tensor};
use llm_dit_testkit::{
    fakes::{Control, FAILING_SEED, FakeGenerator, MISFIT, PANICKING_SEED, Seen},
    servers::{fake_diffusion, job},
    wire::tensor,
};
use llm_dit_tests::goldens::{Goldens, relative_error};
use llm_dit_weights::DeviceChoice;
use llm_dit_z_image::DiffusionOptions;
use tokio_util::sync::CancellationToken;

const WIDTH: usize = 32;

/// A handle over the fake that waits for permits, with the first job under way alone.
async fn busy(limit: usize) -> (DiffusionHandle, Control, Events) {
    let limits = ServiceLimits { batch: Some(BatchLimit::new(limit)), ..Default::default() };
    let (handle, mut control) = fake_diffusion(FakeGenerator::gated(WIDTH), limits, None);
    let first = begin(&handle, seeded(&handle, 1)).await;
    assert_eq!(control.seen().await, Seen::Began { seed: 1 });
    (handle, control, first)
}

fn seeded(handle: &DiffusionHandle, seed: u64) -> GenerateJob {
    job(handle, GenerateOptions { seed: Some(seed), ..Default::default() })
}

async fn begin(handle: &DiffusionHandle, job: GenerateJob) -> Events {
    handle.generate(job, &CancellationToken::new()).await.expect("accepted")
}

/// The steps and the file of a job.
async fn end(mut events: Events) -> Result<(u32, bytes::Bytes), Fault> {
    let (mut steps, mut file) = (0, None);
    while let Some(event) = events.next().await {
        match event? {
            Event::Step(_) => steps += 1,
            Event::Image(image) => file = Some(image.png),
            _ => {}
        }
    }
    Ok((steps, file.expect("a picture")))
}

/// What the engine does until it has finished so many pictures.
async fn until_finished(control: &mut Control, mut pictures: usize) -> Vec<Seen> {
    let mut all = Vec::new();
    while pictures > 0 {
        let seen = control.seen().await;
        pictures -= usize::from(matches!(seen, Seen::Finished { .. }));
        all.push(seen);
    }
    all
}

/// The batches among it, one alone included, in order.
fn batches(seen: &[Seen]) -> Vec<Vec<u64>> {
    let mut batches: Vec<Vec<u64>> = Vec::new();
    let mut announced = 0;
    for seen in seen {
        match seen {
            Seen::Together(seeds) => {
                batches.push(seeds.clone());
                announced = seeds.len();
            }
            Seen::Began { .. } if announced > 0 => announced -= 1,
            Seen::Began { seed } => batches.push(vec![*seed]),
            _ => {}
        }
    }
    batches
}

#[tokio::test]
async fn the_oldest_goes_with_those_behind_it_that_fit() {
    let (handle, mut control, first) = busy(3).await;
    let wide = |seed| {
        let options = GenerateOptions { seed: Some(seed), width: Some(128), ..Default::default() };
        job(&handle, options)
    };
    let heun = GenerateOptions {
        seed: Some(30),
        scheduler: Some(Scheduler::FlowHeun.to_string()),
        ..Default::default()
    };
    let mut waiting = Vec::new();
    for job in [
        seeded(&handle, 2),
        wide(20),
        seeded(&handle, 3),
        job(&handle, heun),
        wide(21),
        seeded(&handle, 4),
        seeded(&handle, 5),
    ] {
        waiting.push(begin(&handle, job).await);
    }
    control.open();
    let seen = until_finished(&mut control, 8).await;
    let expected: [&[u64]; 4] = [&[2, 3, 4], &[20, 21], &[30], &[5]];
    assert_eq!(batches(&seen), expected);
    end(first).await.expect("well");
    for (events, steps) in waiting.into_iter().zip([3, 3, 3, 5, 3, 3, 3]) {
        assert_eq!(end(events).await.expect("well").0, steps);
    }
}

#[tokio::test]
async fn each_of_a_batch_gets_the_file_that_it_gets_alone() {
    let (handle, mut control, first) = busy(4).await;
    let (a, b) =
        (begin(&handle, seeded(&handle, 2)).await, begin(&handle, seeded(&handle, 3)).await);
    control.open();
    let together = [end(a).await.expect("well").1, end(b).await.expect("well").1];
    end(first).await.expect("well");
    let seen = until_finished(&mut control, 3).await;
    assert!(seen.contains(&Seen::Together(vec![2, 3])), "{seen:?}");
    for (seed, file) in [2, 3].into_iter().zip(together) {
        let alone = end(begin(&handle, seeded(&handle, seed)).await).await.expect("well").1;
        assert!(alone == file);
    }
}

#[tokio::test]
async fn one_that_leaves_a_batch_disturbs_no_other() {
    let (handle, mut control, first) = busy(4).await;
    let stays = begin(&handle, seeded(&handle, 2)).await;
    let cancel = CancellationToken::new();
    let leaves = handle.generate(seeded(&handle, 3), &cancel).await.expect("accepted");
    for _ in 0..3 {
        control.permit();
    }
    assert_eq!(until_finished(&mut control, 1).await.last(), Some(&Seen::Finished { seed: 1 }));
    assert_eq!(control.seen().await, Seen::Together(vec![2, 3]));
    control.permit();
    let seen = [control.seen().await, control.seen().await, control.seen().await];
    assert_eq!(seen, [Seen::Began { seed: 2 }, Seen::Began { seed: 3 }, Seen::Step(1)]);
    cancel.cancel();
    // It hears at once, while the engine is in the middle of a step.
    assert!(matches!(end(leaves).await, Err(Fault::Cancelled(_))));
    control.open();
    let seen = until_finished(&mut control, 1).await;
    let stopped = seen.iter().filter(|seen| matches!(seen, Seen::Stopped { .. })).count();
    assert_eq!((stopped, seen.last()), (1, Some(&Seen::Finished { seed: 2 })));
    assert_eq!(end(stays).await.expect("well").0, 3);
    end(first).await.expect("well");
}

#[tokio::test]
async fn a_failure_is_the_members_and_a_panic_the_batchs() {
    let (handle, mut control, first) = busy(2).await;
    let mut waiting = Vec::new();
    for seed in [FAILING_SEED, 2, PANICKING_SEED, 3, 4] {
        waiting.push(begin(&handle, seeded(&handle, seed)).await);
    }
    control.open();
    end(first).await.expect("well");
    let mut results = Vec::new();
    for events in waiting {
        results.push(end(events).await);
    }
    assert!(matches!(results[0], Err(Fault::Internal(_))));
    assert!(results[1].is_ok());
    assert!(matches!(results[2..4], [Err(Fault::Internal(_)), Err(Fault::Internal(_))]));
    assert!(results[4].is_ok());
}

fn lora(name: &str) -> LoraChoice {
    LoraChoice {
        name: name.into(),
        path: format!("{name}.safetensors").into(),
        scale: 1.0,
        trigger_words: String::new(),
        blocks: Default::default(),
        pass: Default::default(),
    }
}

/// A job with a LoRA of its own.
fn with(handle: &DiffusionHandle, name: &str, seed: u64) -> GenerateJob {
    GenerateJob { loras: vec![lora(name)], ..seeded(handle, seed) }
}

/// The changes of the weights, and the batches of more than one.
fn changes(seen: Vec<Seen>) -> Vec<Seen> {
    seen.into_iter().filter(|seen| matches!(seen, Seen::Loras(_) | Seen::Together(_))).collect()
}

#[tokio::test]
async fn jobs_go_together_with_those_of_their_own_loras() {
    let (handle, mut control, first) = busy(4).await;
    let mut all = vec![first];
    for job in
        [seeded(&handle, 2), with(&handle, "ink", 3), seeded(&handle, 4), with(&handle, "ink", 5)]
    {
        all.push(begin(&handle, job).await);
    }
    control.open();
    let seen = until_finished(&mut control, 5).await;
    let ink = Seen::Loras(vec!["ink".into()]);
    assert_eq!(changes(seen), [Seen::Together(vec![2, 4]), ink, Seen::Together(vec![3, 5])]);
    for events in all {
        end(events).await.expect("well");
    }
    assert!(handle.default_loras().is_empty(), "one request's LoRAs are nobody else's");
    // The next picture that names none has none, and the one after it changes nothing.
    for seed in [6, 7] {
        end(begin(&handle, seeded(&handle, seed)).await).await.expect("well");
    }
    assert_eq!(changes(until_finished(&mut control, 2).await), [Seen::Loras(Vec::new())]);
}

#[tokio::test]
async fn jobs_whose_loras_are_in_other_passes_are_not_made_together() {
    let (handle, mut control, first) = busy(4).await;
    let in_pass = |pass, seed| GenerateJob {
        loras: vec![LoraChoice { pass, ..lora("ink") }],
        ..seeded(&handle, seed)
    };
    let mut all = vec![first];
    for (seed, pass) in [(2, LoraPass::Both), (3, LoraPass::Positive), (4, LoraPass::Both)] {
        all.push(begin(&handle, in_pass(pass, seed)).await);
    }
    control.open();
    let seen = until_finished(&mut control, 4).await;
    let ink = || Seen::Loras(vec!["ink".into()]);
    assert_eq!(changes(seen), [ink(), Seen::Together(vec![2, 4]), ink()]);
    for events in all {
        end(events).await.expect("well");
    }
}

#[tokio::test]
async fn loras_that_cannot_be_used_fail_their_own_jobs() {
    let (handle, mut control, first) = busy(4).await;
    let ink = begin(&handle, with(&handle, "ink", 2)).await;
    let misfits = [
        begin(&handle, with(&handle, MISFIT, 3)).await,
        begin(&handle, with(&handle, MISFIT, 4)).await,
    ];
    let other = begin(&handle, with(&handle, "ink", 5)).await;
    let last = begin(&handle, with(&handle, "ink", 6)).await;
    control.open();
    for events in misfits {
        assert!(matches!(end(events).await, Err(Fault::BadRequest(why)) if why.contains(MISFIT)));
    }
    for events in [first, ink, other, last] {
        end(events).await.expect("well");
    }
    assert!(handle.health().is_healthy(), "the engine is none the worse for it");
}

#[tokio::test]
async fn a_change_of_the_default_reaches_only_what_is_accepted_after_it() {
    let (handle, mut control, first) = busy(4).await;
    let before = begin(&handle, seeded(&handle, 2)).await;
    let change = tokio::spawn({
        let handle = handle.clone();
        async move { handle.set_default_loras(vec![lora("ink")]).await }
    });
    tokio::task::yield_now().await;
    let meanwhile = begin(&handle, seeded(&handle, 3)).await;
    control.open();
    for events in [first, before, meanwhile] {
        end(events).await.expect("well");
    }
    change.await.expect("no panic").expect("changed");
    let after = seeded(&handle, 4);
    assert_eq!(after.loras, [lora("ink")]);
    end(begin(&handle, after).await).await.expect("well");
    let seen = until_finished(&mut control, 4).await;
    let last = seen.iter().rev().find(|seen| matches!(seen, Seen::Loras(_)));
    assert_eq!(last, Some(&Seen::Loras(vec!["ink".into()])), "{seen:?}");
}

/// The engine is at the next picture's steps while the last one is still to be compressed.
#[test]
fn the_next_picture_does_not_wait_for_the_last_ones_file() {
    // One thread for all that blocks, so that the test can hold it.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .max_blocking_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let (handle, mut control, mut first) = busy(1).await;
        let second = begin(&handle, seeded(&handle, 2)).await;
        let (let_go, held) = std::sync::mpsc::channel::<()>();
        let hold = tokio::task::spawn_blocking(move || held.recv().is_ok());
        for _ in 0..4 {
            control.permit();
        }
        let seen = until_finished(&mut control, 1).await;
        assert_eq!(seen.last(), Some(&Seen::Finished { seed: 1 }));
        assert_eq!(control.seen().await, Seen::Began { seed: 2 });
        assert_eq!(control.seen().await, Seen::Step(1));
        // All that the first one said, and no picture.
        for step in 0..4 {
            let event = first.next().await.expect("more to come").expect("well");
            assert!(matches!(event, Event::Accepted { .. } | Event::Step(_)), "{step}: {event:?}");
        }
        assert!(futures::poll!(Box::pin(first.next())).is_pending());
        let_go.send(()).expect("held");
        assert!(hold.await.expect("no panic"));
        control.open();
        end(first).await.expect("well");
        end(second).await.expect("well");
    });
}

/// The random-weight model.
fn tiny(dtype: DType) -> Box<dyn ImageGenerator> {
    let options = DiffusionOptions {
        model_path: Goldens::tiny(),
        device: DeviceChoice::Cpu,
        dtype: Some(dtype),
        ..Default::default()
    };
    llm_dit_z_image::load(&options).expect("tiny model")
}

/// Unequal captions, seeds and strengths of guidance.
fn unequal(
    info: &diffusion_service::engine::ModelInfo,
    options: GenerateOptions,
) -> Vec<CheckedJob> {
    let caption = |tokens, salt| {
        let small = tensor(&[tokens, info.cap_feat_dim], salt).to_f32();
        let values: Vec<f32> = small.iter().map(|v| 4.0 * v).collect();
        Tensor::from_f32(&values, vec![tokens, info.cap_feat_dim], DType::F32).expect("a shape")
    };
    let job = |index: usize| {
        let guidance_scale = options.guidance_scale.map(|scale| scale + index as f32);
        let seed = Some(index as u64);
        let options = GenerateOptions { seed, guidance_scale, ..options.clone() };
        let job = GenerateJob {
            loras: Vec::new(),
            params: options.resolve(&info.defaults, &info.limits).expect("valid"),
            embeddings: caption([5, 40, 70][index], index),
            negative_embeddings: guidance_scale.map(|_| caption([33, 1, 9][index], 10 + index)),
            latents: None,
            image: None,
            mask: None,
            return_latents: true,
            preview: None,
        };
        info.check(job).expect("valid")
    };
    (0..3).map(job).collect()
}

/// Makes them together, every step of all before the next one of any; the one with this index leaves
/// after the first step.
fn make(
    generator: &mut dyn ImageGenerator,
    jobs: &[CheckedJob],
    leaves: Option<usize>,
) -> Vec<Result<Generated, GenerateError>> {
    let (results, steps) = (RefCell::new(Vec::new()), RefCell::new(Vec::new()));
    let members = jobs.iter().enumerate().map(|(index, job)| {
        let (results, steps) = (&results, &steps);
        let sink = move |step: Step| {
            steps.borrow_mut().extend((step.index > 0).then_some(step.index));
            if leaves == Some(index) && step.index == 1 {
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        };
        Member::new(job, sink, move |made| results.borrow_mut().push((index, made)))
    });
    generator.generate_batch(members.collect());
    assert!(steps.borrow().is_sorted(), "{steps:?}");
    let mut results = results.into_inner();
    results.sort_by_key(|(index, _)| *index);
    assert_eq!(results.len(), jobs.len(), "every member has an answer");
    results.into_iter().map(|(_, made)| made).collect()
}

/// The worst that any of a batch is from itself alone, in latents.
fn apart(generator: &mut dyn ImageGenerator, jobs: &[CheckedJob], leaves: Option<usize>) -> f64 {
    let together = make(generator, jobs, leaves);
    let mut worst = 0f64;
    for (index, (job, together)) in jobs.iter().zip(together).enumerate() {
        if leaves == Some(index) {
            assert!(matches!(together, Err(GenerateError::Cancelled)));
            continue;
        }
        let alone = make(generator, std::slice::from_ref(job), None).remove(0).expect("well");
        let together = together.expect("well");
        let latents = |made: &Generated| made.latents.as_ref().expect("asked for").to_f32();
        worst = worst.max(relative_error(&latents(&together), &latents(&alone)));
        let Picture { width, height, .. } = alone.picture;
        assert_eq!((together.picture.width, together.picture.height), (width, height));
    }
    worst
}

#[test]
fn a_batch_makes_the_pictures_that_are_made_alone() {
    let options =
        GenerateOptions { width: Some(96), height: Some(80), steps: Some(4), ..Default::default() };
    let guided = GenerateOptions { guidance_scale: Some(1.5), ..options.clone() };
    let cases = [
        ("plain", options.clone()),
        ("guided", guided.clone()),
        ("guided in some steps", GenerateOptions { cfg_truncation: Some(0.3), ..guided.clone() }),
        ("normed", GenerateOptions { cfg_normalization: Some(0.9), ..guided.clone() }),
        (
            "heun",
            GenerateOptions { scheduler: Some(Scheduler::FlowHeun.to_string()), ..options.clone() },
        ),
        (
            "unipc",
            GenerateOptions { scheduler: Some(Scheduler::UniPc.to_string()), ..guided.clone() },
        ),
    ];
    for (dtype, bound) in [(DType::F32, 1e-5), (DType::Bf16, 1e-2)] {
        let mut generator = tiny(dtype);
        let info = generator.info();
        for (name, options) in cases.clone() {
            let jobs = unequal(&info, options);
            for leaves in [None, Some(1)] {
                let worst = apart(generator.as_mut(), &jobs, leaves);
                println!("{dtype}, {name}, {leaves:?} leaves: {worst:.1e}");
                assert!(worst <= bound, "{dtype}, {name}: {worst}");
            }
        }
        let path = Goldens::folder().join("lora/kohya.safetensors");
        let positive = LoraChoice { path, pass: LoraPass::Positive, ..lora("kohya") };
        generator.set_loras(&[positive]).expect("fits");
        let jobs = unequal(&info, guided.clone());
        for leaves in [None, Some(1)] {
            let worst = apart(generator.as_mut(), &jobs, leaves);
            println!("{dtype}, a LoRA in one pass, {leaves:?} leaves: {worst:.1e}");
            assert!(worst <= bound, "{dtype}, a LoRA in one pass: {worst}");
        }
    }
}
