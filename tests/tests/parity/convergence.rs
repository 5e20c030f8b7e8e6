//! What the schedulers draw with the demo model: each comes nearer to the exact solution with more
//! steps, and those of second order from nearer by than Euler's method.

use llm_dit_params::{GenerateOptions, Scheduler};
use llm_dit_tests::demo::{Demo, psnr};

const STEPS: [u32; 5] = [2, 4, 8, 20, 50];
const PROMPT: &str = "a red apple on a blue background";

fn draw(demo: &mut Demo, scheduler: Scheduler, steps: u32) -> Vec<u8> {
    let options = GenerateOptions {
        width: Some(128),
        height: Some(128),
        steps: Some(steps),
        seed: Some(1),
        scheduler: Some(scheduler.to_string()),
        ..Default::default()
    };
    demo.draw(PROMPT, "", options)
}

#[test]
fn more_steps_come_nearer_to_the_exact_picture() {
    let mut demo = Demo::load();
    // 199 forwards of second order: what Euler's method would need thousands for.
    let exact = draw(&mut demo, Scheduler::FlowHeun, 100);
    let mut at_twenty = Vec::new();
    println!("dB from the exact picture at {STEPS:?} steps:");
    for scheduler in Scheduler::ALL {
        let nearness = STEPS.map(|n| psnr(&draw(&mut demo, scheduler, n), &exact));
        println!("{scheduler:10} {nearness:.1?}");
        for pair in nearness.windows(2) {
            assert!(pair[0] + 2.0 < pair[1], "{scheduler}: {nearness:?}");
        }
        at_twenty.push(nearness[3]);
    }
    for (scheduler, nearness) in Scheduler::ALL.iter().zip(&at_twenty).skip(1) {
        let euler = at_twenty[0];
        assert!(*nearness > euler + 3.0, "{scheduler}: {nearness} dB, flow_euler {euler}");
    }
}

#[test]
fn the_same_picture_twice_and_another_one_from_another_scheduler() {
    let mut demo = Demo::load();
    let pictures = Scheduler::ALL.map(|scheduler| draw(&mut demo, scheduler, 8));
    for (scheduler, picture) in Scheduler::ALL.iter().zip(&pictures) {
        assert!(draw(&mut demo, *scheduler, 8) == *picture, "{scheduler} drew another picture");
    }
    for (i, one) in pictures.iter().enumerate() {
        for (j, other) in pictures.iter().enumerate().skip(i + 1) {
            let (a, b) = (Scheduler::ALL[i], Scheduler::ALL[j]);
            let decibels = psnr(one, other);
            println!("{a} and {b} at 8 steps: {decibels:.1} dB");
            // The same subject, not the same picture.
            assert!((12.0..60.0).contains(&decibels), "{a} and {b}: {decibels} dB");
        }
    }
}
