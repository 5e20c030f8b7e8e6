//! The short form of the attacks that `examples/attack.rs` makes at length. How long an image takes
//! beside them is told, and judged only there.

use llm_dit_testkit::attack::{Plan, run};

#[tokio::test(flavor = "multi_thread")]
async fn no_attack_costs_an_honest_client_its_image() {
    let report = run(&Plan { short: true, only: None }).await;
    println!("{report}");
    assert!(report.is_clean(), "{report}");
}
