//! A chat to and from the wire.

use llm_dit_proto::v1;

use crate::{Chat, Exchange, ThinkBlock};

impl From<v1::Chat> for Chat {
    fn from(chat: v1::Chat) -> Self {
        let v1::Chat {
            user,
            system,
            thinking,
            assistant,
            force_think_block,
            enable_thinking,
            raw_special_tokens,
            history,
            close_turn,
        } = chat;
        let history = history
            .into_iter()
            .map(|v1::Exchange { user, thinking, assistant }| Exchange {
                user,
                thinking,
                assistant,
            })
            .collect();
        let think_block = ThinkBlock::from_switches(enable_thinking, force_think_block);
        Self {
            system,
            history,
            user,
            thinking,
            assistant,
            think_block,
            close_turn,
            raw_special_tokens,
        }
    }
}

impl From<Chat> for v1::Chat {
    fn from(chat: Chat) -> Self {
        let Chat {
            system,
            history,
            user,
            thinking,
            assistant,
            think_block,
            close_turn,
            raw_special_tokens,
        } = chat;
        Self {
            user,
            system,
            thinking,
            assistant,
            // An encoder of an older version knows only this one.
            force_think_block: think_block == ThinkBlock::On,
            enable_thinking: think_block.as_switch(),
            raw_special_tokens,
            history: history
                .into_iter()
                .map(|Exchange { user, thinking, assistant }| v1::Exchange {
                    user,
                    thinking,
                    assistant,
                })
                .collect(),
            close_turn,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chat_survives_the_wire() {
        let earlier = Exchange { user: "u".into(), thinking: "t".into(), assistant: "a".into() };
        for think_block in [ThinkBlock::Auto, ThinkBlock::On, ThinkBlock::Off] {
            let chat = Chat {
                system: "S".into(),
                history: vec![earlier.clone()],
                thinking: "T".into(),
                assistant: "A".into(),
                think_block,
                close_turn: true,
                raw_special_tokens: true,
                ..Chat::user("P")
            };
            assert_eq!(Chat::from(v1::Chat::from(chat.clone())), chat);
            assert_eq!(Chat::from(v1::Chat::from(Chat::default())), Chat::default());
        }
    }
}
