use super::*;

const GB: f64 = 1e9;
const GIB: u64 = 1 << 30;

/// Z-Image-Turbo in GB: transformer and text encoder as they are stored.
const SETS: [(&str, f64, f64); 4] =
    [("bf16", 12.31, 8.04), ("Q8_0", 7.22, 5.63), ("Q4_K_M", 4.98, 2.5), ("Q3_K_M", 4.12, 2.5)];

fn size(part: Part, packed: f64, expanded: f64) -> PartSize {
    PartSize { part, packed: (packed * GB) as u64, expanded: (expanded * GB) as u64 }
}

/// 1024x1024 in bf16 on a card of so many GiB.
fn demand(set: &str, gib: u64) -> Demand {
    let (_, dit, encoder) = SETS.into_iter().find(|(name, ..)| *name == set).expect("a set");
    Demand {
        device: "cuda:0".to_owned(),
        limit: Limit::Given(gib * GIB),
        overhead: GPU_OVERHEAD,
        parts: vec![
            size(Part::TextEncoder, encoder, 8.04),
            size(Part::Transformer, dit, 12.31),
            size(Part::Vae, 0.17, 0.17),
        ],
        work: Work {
            encode: 100 << 20,
            denoise: 400 << 20,
            units: 1,
            decode: 1536 << 20,
            decode_least: 400 << 20,
        },
        course: Course::Service,
        images: usize::MAX,
        fixed: Fixed::default(),
    }
}

/// What a plan says of residency and forms: offloaded parts, packed parts.
fn words(set: &str, gib: u64) -> String {
    let Ok(plan) = Plan::new(&demand(set, gib)) else { return "no".to_owned() };
    assert!(plan.peak() <= plan.limit.bytes(), "{set} in {gib} GiB: {plan:?}");
    let count = |of: &dyn Fn(&PlannedPart) -> bool| plan.parts.iter().filter(|p| of(p)).count();
    let offloaded = count(&|part| part.stay == Stay::InUse);
    let packed = count(&|part| part.form == Form::Packed);
    format!("offloaded {offloaded}, packed {packed}, batch {}, whole {}", plan.batch, plan.whole)
}

#[test]
fn cards_of_every_size_get_a_plan_or_a_reason() {
    let rows: Vec<(u64, Vec<String>)> = [6, 8, 12, 16, 24, 48, 80]
        .into_iter()
        .map(|gib| (gib, SETS.iter().map(|(set, ..)| words(set, gib)).collect()))
        .collect();
    let w = |o, p, b, whole| format!("offloaded {o}, packed {p}, batch {b}, whole {whole}");
    let no = || "no".to_owned();
    let fits = || w(0, 0, 4, true);
    let expected = vec![
        (6, vec![no(), no(), w(3, 2, 2, true), w(3, 2, 4, true)]),
        (8, vec![no(), w(3, 2, 1, true), w(3, 2, 4, true), w(0, 2, 2, false)]),
        (12, vec![no(), w(3, 1, 4, true), w(0, 2, 4, true), w(0, 2, 4, true)]),
        (16, vec![w(3, 0, 4, true), w(0, 1, 1, false), w(0, 1, 2, false), w(0, 1, 2, false)]),
        (24, vec![fits(); 4]),
        (48, vec![fits(); 4]),
        (80, vec![fits(); 4]),
    ];
    println!("{rows:#?}");
    for ((gib, plans), (_, expected)) in rows.iter().zip(&expected) {
        for ((set, ..), (plan, expected)) in SETS.iter().zip(plans.iter().zip(expected)) {
            assert_eq!(plan, expected, "{set} in {gib} GiB");
        }
    }
}

#[test]
fn a_larger_limit_is_never_worse() {
    for (set, ..) in SETS {
        let mut before = None;
        for gib in 1..=80 {
            let plan = Plan::new(&demand(set, gib));
            let rank = |plan: &Plan| {
                let offloaded = plan.parts.iter().filter(|p| p.stay == Stay::InUse).count();
                let packed = |part| plan.part(part).is_some_and(|p| p.form == Form::Packed);
                let forms = (packed(Part::Transformer), packed(Part::TextEncoder));
                (offloaded, forms, 4 - plan.batch)
            };
            let rank = plan.as_ref().ok().map(rank);
            if let (Some(before), now) = (before, rank) {
                assert!(now.is_some_and(|now| now <= before), "{set} in {gib} GiB");
            }
            before = rank.or(before);
        }
    }
}

#[test]
fn the_least_that_is_named_works() {
    for (set, ..) in SETS {
        for fixed in [
            Fixed::default(),
            Fixed { offload: Some(false), ..Fixed::default() },
            Fixed { form: Some(Form::Expanded), batch: Some(4), ..Fixed::default() },
        ] {
            let small = Demand { fixed, ..demand(set, 1) };
            let error = Plan::new(&small).expect_err("too small");
            let enough = Demand { limit: Limit::Given(error.least), ..small.clone() };
            let plan = Plan::new(&enough).expect("it says so");
            assert_eq!(plan.flags(), error.flags, "{error}");
            let below = Demand { limit: Limit::Given(error.least - 1), ..small };
            assert!(Plan::new(&below).is_err());
        }
    }
}

#[test]
fn what_the_user_fixed_is_kept_or_refused_with_the_reason() {
    let fixed = Fixed { offload: Some(false), form: None, batch: Some(2) };
    let plan = Plan::new(&Demand { fixed, ..demand("Q4_K_M", 12) }).expect("fits");
    assert!(plan.batch == 2 && !plan.takes_turns());
    let fixed = Fixed { offload: Some(true), ..Fixed::default() };
    let plan = Plan::new(&Demand { fixed, ..demand("bf16", 80) }).expect("fits");
    assert!(plan.parts.iter().all(|part| part.stay == Stay::InUse));
    let fixed = Fixed { form: Some(Form::Expanded), ..Fixed::default() };
    let error = Plan::new(&Demand { fixed, ..demand("Q4_K_M", 8) }).expect_err("12.3 GB");
    let text = error.to_string();
    for part in
        ["--max-vram is 8.0 GiB", "at least", "without --weights expanded", "--weights packed"]
    {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn a_command_does_not_keep_its_text_encoder() {
    let service = demand("bf16", 20);
    let command = Demand { course: Course::Command, ..service.clone() };
    let offloaded = |demand: &Demand| Plan::new(demand).expect("fits").takes_turns();
    assert!(offloaded(&service));
    let plan = Plan::new(&Demand { limit: Limit::Given(22 * GIB), ..command }).expect("fits");
    assert!(!plan.takes_turns());
    let peaks: Vec<u64> = plan.stages.iter().map(|stage| stage.weights).collect();
    assert!(peaks[0] > peaks[1], "it is gone when images are drawn");
}

#[test]
fn a_plan_is_a_few_lines() {
    let command = Demand { course: Course::Command, images: 1, ..demand("Q4_K_M", 8) };
    assert_eq!(
        Plan::new(&command).expect("fits").lines(),
        [
            "memory plan for cuda:0: at most 8.0 GiB (--max-vram)",
            "  text encoder    2.4 GiB, packed, loaded for the prompts",
            "  transformer     4.7 GiB, packed, stays loaded",
            "  VAE             163 MiB, stays loaded",
            "  encode:         7.8 GiB",
            "  denoise:        5.7 GiB",
            "  decode:         7.2 GiB",
        ]
    );
    let large = Work { decode: 8 * GIB, ..command.work };
    let lines = Plan::new(&Demand { work: large, ..command }).expect("fits").lines();
    assert_eq!(lines.last().map(String::as_str), Some("  decode:         8.0 GiB, in bands"));
}

#[test]
fn a_service_of_one_part_has_its_stage_only() {
    let demand = demand("Q4_K_M", 3);
    let only = |part| demand.parts.iter().copied().filter(|size| size.part == part).collect();
    let plan = Plan::new(&Demand { parts: only(Part::TextEncoder), ..demand.clone() });
    let plan = plan.expect("fits");
    assert!(matches!(&plan.stages[..], [StagePeak { stage: Stage::Encode, .. }]));
    assert_eq!(plan.others(), plan.overhead + plan.parts[0].bytes);
}
