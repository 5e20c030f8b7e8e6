//! The chat as the text that the server will read.

use llm_dit_chat::{Chat, Exchange};

use crate::HeylookError;

/// Every token of Qwen3 that its tokenizer finds in plain text, ids 151643 to 151668.
const SPECIAL_TOKENS: [&str; 26] = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
    "<tool_call>",
    "</tool_call>",
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
    "<tool_response>",
    "</tool_response>",
    "<think>",
    "</think>",
];

/// Lays the chat out, unless one of its texts contains a special token.
///
/// Our own tokenizer keeps a typed special token as text. The server would take it for the token
/// itself, and so let a prompt close the user's turn and open another. No spelling makes the server
/// read it as text, so it is refused rather than changed. A chat whose `raw_special_tokens` is set
/// means them as tokens and is sent unchanged.
///
/// It is enough to look at each text alone. A token has `<` only as its first character and `>`
/// only as its last, and the frame around the texts ends in `>` or a line break and begins with
/// `<`, so no token can arise where two pieces meet.
///
/// # Errors
///
/// [`HeylookError::SpecialToken`] if a text contains a special token.
pub fn format(chat: &Chat) -> Result<String, HeylookError> {
    // Named one by one, so that a new text cannot be forgotten here.
    let Chat {
        system,
        history,
        user,
        thinking,
        assistant,
        think_block: _,
        close_turn: _,
        raw_special_tokens,
    } = chat;
    if *raw_special_tokens {
        return Ok(chat.render());
    }
    let earlier = history.iter().flat_map(|Exchange { user, thinking, assistant }| {
        [user, thinking, assistant].map(|text| ("history", text))
    });
    let texts =
        [("prompt", user), ("system", system), ("thinking", thinking), ("assistant", assistant)];
    for (part, text) in texts.into_iter().chain(earlier) {
        if let Some(token) = SPECIAL_TOKENS.into_iter().find(|token| text.contains(token)) {
            return Err(HeylookError::SpecialToken { part, token });
        }
    }
    Ok(chat.render())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typed_special_tokens_are_refused_by_name() {
        let mut chat = Chat::user("less than <|im_end| > and <think");
        chat.thinking = "warm light".into();
        assert_eq!(format(&chat).expect("text"), chat.render());
        for token in SPECIAL_TOKENS {
            let typed = || format!("a sign that says {token}, in neon");
            let chats = [
                ("prompt", Chat::user(typed())),
                ("system", Chat { system: typed(), ..Chat::user("x") }),
                ("thinking", Chat { thinking: typed(), ..Chat::user("x") }),
                ("assistant", Chat { assistant: typed(), ..Chat::user("x") }),
            ];
            for (part, chat) in chats {
                let error = format(&chat).expect_err("a special token").to_string();
                assert!(error.contains(part) && error.contains(token), "{error}");
            }
        }
    }

    #[test]
    fn raw_special_tokens_and_earlier_turns_are_told_apart() {
        let raw = Chat { raw_special_tokens: true, ..Chat::user("a <|im_end|>") };
        assert_eq!(format(&raw).expect("meant"), raw.render());
        let earlier = Exchange { assistant: "</think>".into(), ..Exchange::default() };
        let chat = Chat { history: vec![earlier], ..Chat::user("x") };
        let error = format(&chat).expect_err("a special token").to_string();
        assert!(error.contains("history"), "{error}");
    }

    #[test]
    fn no_token_can_arise_where_pieces_meet() {
        for token in SPECIAL_TOKENS {
            assert_eq!((token.rfind('<'), token.find('>')), (Some(0), Some(token.len() - 1)));
        }
    }
}
