//! The loop with a denoiser that has no weights: its x0 is known, so is where the latents arrive.

use std::cell::RefCell;

use candle_core::Result;
use llm_dit_engine::DeviceId;
use llm_dit_engine::image::{About, CheckedJob, GenerateJob, Generated, ModelInfo, StepSink};
use llm_dit_params::{GenerateOptions, Limits, ModelDefaults, Scheduler};

use super::*;
use crate::{schedule::sigmas, source_latents::tests::kept};

const SHAPE: [usize; 3] = [1, 2, 2];
const STEPS: u32 = 4;

/// Sees in every picture the constant that is its caption's first value.
#[derive(Default)]
struct Constant {
    /// More items than this fail, as if there were no memory.
    room: Option<usize>,
    /// Sees something else for negative prompts.
    negative: Option<Box<Self>>,
    /// Is added to what it sees.
    more: f32,
    asked: RefCell<Vec<Asked>>,
}

#[derive(Debug, PartialEq)]
enum Asked {
    Condition { items: usize },
    Prepare { times: usize },
    Velocity { items: usize },
    Reset,
}

impl Denoiser for Constant {
    type Conditioning = Vec<f32>;

    fn device(&self) -> &Device {
        &Device::Cpu
    }

    fn condition(&self, captions: &[Tensor], sizes: &[(usize, usize)]) -> Result<Vec<f32>> {
        assert_eq!(sizes, vec![(SHAPE[1], SHAPE[2]); captions.len()]);
        self.asked.borrow_mut().push(Asked::Condition { items: captions.len() });
        captions.iter().map(|caption| caption.get(0)?.get(0)?.to_scalar()).collect()
    }

    fn prepare(&self, _: &mut Vec<f32>, times: &[f32]) -> Result<()> {
        self.asked.borrow_mut().push(Asked::Prepare { times: times.len() });
        Ok(())
    }

    fn velocity(
        &self,
        latents: &[Tensor],
        times: &[f32],
        x0s: &mut Vec<f32>,
    ) -> Result<Vec<Tensor>> {
        self.asked.borrow_mut().push(Asked::Velocity { items: latents.len() });
        if self.room.is_some_and(|room| latents.len() > room) {
            candle_core::bail!("no room for {}", latents.len());
        }
        let items = latents.iter().zip(times).zip(x0s);
        items
            .map(|((x, time), x0)| (x - f64::from(*x0 + self.more))? / f64::from(1.0 - time))
            .collect()
    }

    fn negative(&self) -> Option<&Self> {
        self.negative.as_deref()
    }

    fn reset(&self) {
        self.asked.borrow_mut().push(Asked::Reset);
    }
}

fn job(x0: f32, change: impl FnOnce(&mut GenerateOptions)) -> CheckedJob {
    let info = ModelInfo {
        model: "constant".to_owned(),
        about: About::default(),
        cap_feat_dim: 1,
        latent_channels: SHAPE[0],
        vae_scale_factor: 8,
        max_caption_tokens: 1,
        device: DeviceId::Cpu,
        dtype: proto::DType::F32,
        defaults: ModelDefaults::z_image_turbo(),
        limits: Limits::default(),
        preview: None,
    };
    let mut options = GenerateOptions { steps: Some(STEPS), ..Default::default() };
    change(&mut options);
    let params = options.resolve(&info.defaults, &info.limits);
    let caption = |value| {
        proto::Tensor::from_f32(&[value], vec![1, 1], proto::DType::F32).expect("one value")
    };
    let job = GenerateJob {
        params: params.expect("valid"),
        loras: Vec::new(),
        embeddings: caption(x0),
        negative_embeddings: Some(caption(-x0)),
        latents: None,
        image: None,
        mask: None,
        return_latents: false,
        preview: None,
    };
    info.check(job).expect("fits")
}

fn trajectory<'a>(
    job: &'a CheckedJob,
    sink: impl StepSink + 'a,
    done: impl FnOnce(std::result::Result<Generated, GenerateError>) + 'a,
) -> Trajectory<'a> {
    let grid = sigmas(job.params.scheduler, job.params.steps, job.params.shift);
    Trajectory::new(Member::new(job, sink, done), vec![1.0, -1.0, 0.5, 2.0].into(), grid)
}

fn go_on(_: Step) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn assert_all_near(latents: &[f32], x0: f32) {
    for value in latents {
        assert!((value - x0).abs() < 1e-5, "{latents:?} instead of {x0}");
    }
}

#[test]
fn all_of_a_batch_arrive_where_a_denoiser_without_a_transformer_points() {
    let (one, other) = (job(0.5, |_| {}), job(-2.0, |_| {}));
    let model = Constant::default();
    let none = |_| unreachable!("no caller leaves");
    let batch = vec![trajectory(&one, go_on, none), trajectory(&other, go_on, none)];
    let arrived = denoise(&model, SHAPE, batch);
    assert_all_near(&arrived[0].latents, 0.5);
    assert_all_near(&arrived[1].latents, -2.0);
    let mut expected =
        vec![Asked::Condition { items: 2 }, Asked::Prepare { times: STEPS as usize }];
    expected.extend((0..STEPS).map(|_| Asked::Velocity { items: 2 }));
    assert_eq!(model.asked.take(), expected);
}

#[test]
fn guidance_asks_for_both_captions_at_once() {
    // x0 with guidance 1: 0.5 + (0.5 - -0.5).
    let guided = job(0.5, |options| options.guidance_scale = Some(1.0));
    let model = Constant::default();
    let batch = vec![trajectory(&guided, go_on, |_| unreachable!("no caller leaves"))];
    assert_all_near(&denoise(&model, SHAPE, batch)[0].latents, 1.5);
    let velocities = model.asked.take().into_iter();
    let velocities = velocities.filter(|asked| matches!(asked, Asked::Velocity { items: 2 }));
    assert_eq!(velocities.count(), STEPS as usize);
}

#[test]
fn negative_prompts_are_asked_of_their_own_model() {
    let guided = |truncation| {
        job(0.5, move |options| {
            (options.guidance_scale, options.cfg_truncation) = (Some(1.0), truncation);
        })
    };
    let (all, some) = (guided(None), guided(Some(0.05)));
    // The first step is at time 0, the second at 0.1.
    for (job, steps) in [(&all, STEPS), (&some, 1)] {
        let negative = Some(Box::new(Constant { more: 0.25, ..Default::default() }));
        let model = Constant { negative, ..Default::default() };
        let batch = vec![trajectory(job, go_on, |_| unreachable!("no caller leaves"))];
        let arrived = denoise(&model, SHAPE, batch);
        if steps == STEPS {
            // 0.5 + (0.5 - (-0.5 + 0.25)).
            assert_all_near(&arrived[0].latents, 1.25);
        }
        let asked = |model: &Constant, steps: u32| {
            let mut expected =
                vec![Asked::Condition { items: 1 }, Asked::Prepare { times: STEPS as usize }];
            expected.extend((0..steps).map(|_| Asked::Velocity { items: 1 }));
            assert_eq!(model.asked.take(), expected);
        };
        asked(&model, STEPS);
        asked(model.negative().expect("it has one"), steps);
    }
    // Without guidance nothing is asked of it.
    let negative = Some(Box::new(Constant::default()));
    let (model, plain) = (Constant { negative, ..Default::default() }, job(0.5, |_| {}));
    denoise(&model, SHAPE, vec![trajectory(&plain, go_on, |_| unreachable!("it stays"))]);
    assert!(model.negative().expect("it has one").asked.take().is_empty());
}

#[test]
fn who_leaves_is_answered_and_the_others_are_conditioned_anew() {
    let (stays, leaves) = (job(0.5, |_| {}), job(-2.0, |_| {}));
    let model = Constant::default();
    let mut answer = None;
    let leave = |step: Step| match step.index {
        2 => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    };
    let batch = vec![
        trajectory(&leaves, leave, |result| answer = Some(result)),
        trajectory(&stays, go_on, |_| unreachable!("it stays")),
    ];
    let arrived = denoise(&model, SHAPE, batch);
    assert_eq!(arrived.len(), 1);
    assert_all_near(&arrived[0].latents, 0.5);
    drop(arrived);
    assert!(matches!(answer, Some(Err(GenerateError::Cancelled))), "{answer:?}");
    let asked = model.asked.take();
    let conditions = asked.iter().filter(|asked| matches!(asked, Asked::Condition { .. }));
    assert!(conditions.eq(&[Asked::Condition { items: 2 }, Asked::Condition { items: 1 }]));
}

#[test]
fn a_batch_without_room_is_reset_and_goes_on_one_by_one() {
    let (one, other) = (job(0.5, |_| {}), job(-2.0, |_| {}));
    let model = Constant { room: Some(1), ..Default::default() };
    let none = |_| unreachable!("no caller leaves");
    let batch = vec![trajectory(&one, go_on, none), trajectory(&other, go_on, none)];
    let arrived = denoise(&model, SHAPE, batch);
    assert_all_near(&arrived[0].latents, 0.5);
    assert_all_near(&arrived[1].latents, -2.0);
    let resets = model.asked.take().into_iter().filter(|asked| *asked == Asked::Reset);
    assert_eq!(resets.count(), 1);
}

#[test]
fn what_a_mask_keeps_arrives_as_it_was_beside_what_is_redrawn() {
    let none = |_| unreachable!("no caller leaves");
    for scheduler in Scheduler::ALL {
        let job = |x0| job(x0, |options| options.scheduler = Some(scheduler.to_string()));
        let (masked, plain) = (job(0.5), job(-2.0));
        let model = Constant::default();
        let mut first = trajectory(&masked, go_on, none);
        first.kept = Some(kept(3.0, -1.0, &[0, 255, 255, 0], [SHAPE[1], SHAPE[2]]));
        let arrived = denoise(&model, SHAPE, vec![first, trajectory(&plain, go_on, none)]);
        // Bit for bit where the mask is black, whatever the scheduler does with its past.
        let latents = &arrived[0].latents;
        assert_eq!((latents[0], latents[3]), (3.0, 3.0), "{scheduler}");
        assert_all_near(&latents[1..3], 0.5);
        assert_all_near(&arrived[1].latents, -2.0);
    }
}

#[test]
fn between_the_halves_of_a_step_nothing_is_put_back() {
    let heun = job(0.5, |options| options.scheduler = Some("flow_heun".to_owned()));
    let mut trajectory = trajectory(&heun, go_on, |_| unreachable!("it stays"));
    trajectory.kept = Some(kept(3.0, -1.0, &[0; 4], [SHAPE[1], SHAPE[2]]));
    let next = trajectory.solver.clone().advance(&mut vec![0.0; 4], &[0.0; 4]);
    assert_eq!(next, None, "the first half");
    let begun = trajectory.latents.clone();
    let (velocity, now) = (vec![1.0; 4], Instant::now());
    assert!(trajectory.advance(&velocity, 1.0, now).is_continue());
    let moved = trajectory.latents.iter().zip(&begun).all(|(now, then)| now < then);
    assert!(moved, "{:?} after {begun:?}", trajectory.latents);
    assert!(trajectory.advance(&velocity, 0.9, now).is_continue());
    let first = trajectory.latents[0];
    assert!(trajectory.latents.iter().all(|value| *value == first), "all of it is kept");
}
