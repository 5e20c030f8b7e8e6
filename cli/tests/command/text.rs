//! What becomes of a prompt before anything is computed: its format, its tokens, its template.

use serde_json::Value;

use crate::support::Room;

const PLAIN: &str = "<|im_start|>user\na red apple<|im_end|>\n<|im_start|>assistant\n";

/// What the program wrote to stdout.
fn stdout(room: &Room, args: &[&str]) -> String {
    let output = room.run(args);
    let said = String::from_utf8(output.stderr).expect("text");
    assert_eq!(output.status.code(), Some(0), "{args:?}: {said}");
    String::from_utf8(output.stdout).expect("text")
}

fn format(room: &Room, more: &[&str]) -> Value {
    let text = stdout(room, &[&["format", "a red apple", "--json"], more].concat());
    serde_json::from_str(&text).expect("JSON")
}

#[test]
fn a_prompt_is_shown_as_the_encoder_gets_it() {
    let room = Room::new();
    assert_eq!(stdout(&room, &["format", "a red apple"]), PLAIN);
    let said = room.succeed(&["format", "a red apple"]);
    assert!(said.starts_with("11 tokens of 512: user "), "{said}");
    for (flags, expected) in [
        (&["--force-think-block"][..], format!("{PLAIN}<think>\n\n</think>\n\n")),
        (&["--enable-thinking"], format!("{PLAIN}<think>\n\n</think>\n\n")),
        (&["--thinking-content", "T"], format!("{PLAIN}<think>\nT\n</think>\n\n")),
        (&["--thinking-content", "T", "--enable-thinking=false"], PLAIN.to_owned()),
        (&["--force-think-block", "--enable-thinking=false"], PLAIN.to_owned()),
        (&["--force-think-block=false"], PLAIN.to_owned()),
        (&["--assistant-content", "A"], format!("{PLAIN}A<|im_end|>")),
        (&["--system-prompt", "S"], format!("<|im_start|>system\nS<|im_end|>\n{PLAIN}")),
    ] {
        assert_eq!(format(&room, flags)["formatted_prompt"], expected, "{flags:?}");
    }
}

#[test]
fn tokens_are_counted_and_what_would_be_cut_is_said() {
    let room = Room::new();
    let whole = format(&room, &["--template", "noir"]);
    let sum: u64 = ["system", "history", "user", "thinking", "assistant", "frame"]
        .iter()
        .map(|part| whole["tokens"][part].as_u64().expect("a number"))
        .sum();
    assert_eq!(whole["token_count"], sum);
    assert_eq!(whole["tokens"]["total"], sum);
    assert_eq!((&whole["max_tokens"], &whole["truncated"]), (&512.into(), &false.into()));
    let text = whole["formatted_prompt"].as_str().expect("text");
    assert_eq!(whole["char_count"], text.chars().count());

    let limit = (sum - 2).to_string();
    let cut = format(&room, &["--template", "noir", "--max-tokens", &limit]);
    assert_eq!((&cut["truncated"], &cut["truncated_tokens"]), (&true.into(), &2.into()));
    assert_eq!((&cut["token_count"], &cut["formatted_prompt"]), (&sum.into(), &text.into()));
    let said = room.succeed(&["format", "a red apple", "--template=noir", "--max-tokens", &limit]);
    assert!(said.contains("2 would be cut from the end of the prompt"), "{said}");
    let said = room.fail(64, &["format", "a red apple", "--template=noir", "--max-tokens", "9"]);
    assert!(said.contains("max_tokens is 9"), "{said}");
}

#[test]
fn the_end_of_the_chat_is_cut_when_asked() {
    let room = Room::new();
    let whole = format(&room, &[]);
    let limit = (whole["token_count"].as_u64().expect("a number") - 4).to_string();
    let cut = format(&room, &["--max-tokens", &limit, "--truncate", "end"]);
    assert_eq!((&cut["truncate"], &cut["truncated_tokens"]), (&"end".into(), &4.into()));
    let end = ["format", "a red apple", "--max-tokens", "2", "--truncate", "end"];
    let said = room.succeed(&end);
    assert!(said.contains("9 would be cut from the end of the chat"), "{said}");
    let said = room.fail(64, &["format", "x", "--truncate", "middle"]);
    assert!(said.contains("use prompt or end"), "{said}");
    let long = "apple ".repeat(600);
    let image = ["generate", &long, "-W", "64", "-H", "64", "-s", "1", "-S", "1", "-o"];
    room.succeed(&[&image[..], &["prompt.png"]].concat());
    let said = room.succeed(&[&image[..], &["end.png", "--truncate", "end"]].concat());
    assert!(said.contains("the end of the chat, with the header"), "{said}");
    assert_ne!(room.pixels("prompt.png"), room.pixels("end.png"));
    room.succeed(&["generate", "--from", "end.png", "-o", "again.png"]);
    assert_eq!(room.pixels("again.png"), room.pixels("end.png"));
}

#[test]
fn typed_special_tokens_are_text_unless_asked_otherwise() {
    let room = Room::new();
    let count = |flags: &[&str]| {
        let args = [&["format", "x<|im_end|>y", "--json"], flags].concat();
        let value: Value = serde_json::from_str(&stdout(&room, &args)).expect("JSON");
        value["token_count"].as_u64().expect("a number")
    };
    assert_eq!(count(&["--raw-special-tokens"]), count(&["--raw-special-tokens=true"]));
    assert!(count(&[]) > count(&["--raw-special-tokens"]));
    assert_eq!(count(&[]), count(&["--raw-special-tokens=false"]));
}

#[test]
fn quotes_are_removed_when_asked() {
    let room = Room::new();
    let text = |flags: &[&str]| stdout(&room, &[&["format", "a sign \"OPEN\""], flags].concat());
    assert!(text(&[]).contains("a sign \"OPEN\"<|im_end|>"));
    assert!(text(&["--strip-quotes"]).contains("a sign OPEN<|im_end|>"));
    let said = room.fail(64, &["format", "\"\"", "--strip-quotes"]);
    assert!(said.contains("the prompt is empty"), "{said}");
}

#[test]
fn a_template_fills_what_was_not_said() {
    let room = Room::new();
    let text = |flags: &[&str]| stdout(&room, &[&["format", "a red apple"], flags].concat());
    let noir = text(&["--template", "noir"]);
    assert_eq!(noir, text(&["--template", "z_image_noir"]));
    assert!(noir.starts_with("<|im_start|>system\nShoot the subject as a 1940s"), "{noir}");
    assert!(noir.contains("<think>\nI begin with darkness"), "{noir}");
    assert_eq!(text(&["--template", "default"]), PLAIN);
    let said = text(&["--template=noir", "--system-prompt=", "--thinking-content=T"]);
    assert_eq!(said, format!("{PLAIN}<think>\nT\n</think>\n\n"));
    let bare = text(&["--template=noir", "--system-prompt=", "--enable-thinking=false"]);
    assert_eq!(bare, PLAIN);
    for command in ["generate", "encode", "format"] {
        let said = room.fail(64, &[command, "x", "--template", "photorealstic"]);
        assert!(said.contains("'photorealstic'; did you mean 'photorealistic'?"), "{said}");
    }
}

#[test]
fn templates_are_listed_by_category() {
    let room = Room::new();
    let list = stdout(&room, &["templates"]);
    for words in ["photography (18)", "wacky (30)", "  noir ", "1940s black-and-white crime film"] {
        assert!(list.contains(words), "{words}: {list}");
    }
    assert_eq!(list.lines().filter(|line| line.starts_with("  ")).count(), 144);
    assert!(list.lines().all(|line| line.chars().count() <= 100));
    let one = stdout(&room, &["templates", "--category", "character"]);
    assert_eq!(one.lines().filter(|line| line.starts_with("  ")).count(), 6);
    let said = room.fail(64, &["templates", "--category", "phtography"]);
    assert!(said.contains("did you mean 'photography'?"), "{said}");
    let json: Value = serde_json::from_str(&stdout(&room, &["templates", "--json"])).expect("JSON");
    assert_eq!(json.as_array().expect("a list").len(), 144);
    assert_eq!(json[0]["metadata"]["model"], "z-image");
}

#[test]
fn one_template_is_shown_whole() {
    let room = Room::new();
    let shown = stdout(&room, &["templates", "show", "z_image_noir"]);
    for words in [
        "name             z_image_noir",
        "category         style",
        "model            z-image",
        "System prompt:\nShoot the subject",
        "Thinking content:\nI begin",
        "<|im_start|>user\na red apple on a blue background<|im_end|>",
    ] {
        assert!(shown.contains(words), "{words}: {shown}");
    }
    let shown = stdout(&room, &["templates", "show", "default", "--prompt", "a cat"]);
    assert!(shown.contains("Formatted chat:\n<|im_start|>user\na cat<|im_end|>"), "{shown}");
    let said = room.fail(64, &["templates", "show", "noirr"]);
    assert!(said.contains("did you mean 'noir'?"), "{said}");
}

#[test]
fn a_folder_of_templates_adds_to_the_built_in_ones() {
    let room = Room::new();
    std::fs::create_dir(room.path("mine")).expect("ours");
    std::fs::write(room.path("mine/noir.md"), "Mine.").expect("ours");
    let mine = ["--templates-dir", "mine"];
    let text = stdout(&room, &[&["format", "x", "--template", "noir"], &mine[..]].concat());
    assert!(text.starts_with("<|im_start|>system\nMine.<|im_end|>"), "{text}");
    let shown = stdout(&room, &[&["templates", "show", "noir"], &mine[..]].concat());
    assert!(shown.contains("Mine."), "{shown}");
    assert!(stdout(&room, &[&["templates"], &mine[..]].concat()).contains("wacky (30)"));

    std::fs::write(room.path("mine/bad.md"), "---\nname: [\n---\n").expect("ours");
    let said = room.fail(64, &[&["format", "x", "--template", "noir"], &mine[..]].concat());
    assert!(said.contains("bad.md, line "), "{said}");
    let said = room.fail(64, &["templates", "--templates-dir", "nowhere"]);
    assert!(said.contains("nowhere"), "{said}");
}
