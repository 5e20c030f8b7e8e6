//! LoRAs of pictures that are made in this process.

use diffusion_service::{LoraArgs, engine::ActiveLora};
use llm_dit_chat::Chat;
use llm_dit_params::{LoraPass, prompt};

use crate::progress::Progress;

/// Keys of a file that a note names.
const FEW: usize = 5;

/// Puts the trigger words before the prompt.
pub fn with_triggers(chat: Chat, args: &LoraArgs) -> Chat {
    let words = args.lora_trigger.iter().map(|words| words.trim());
    Chat { user: prompt::with_triggers(words, &chat.user), ..chat }
}

/// Says what each LoRA does to the model, and what of it does nothing.
pub fn note(loras: &[ActiveLora], progress: &Progress) {
    for ActiveLora { choice, rank, matrices, unmatched } in loras {
        let (name, scale) = (&choice.name, choice.scale);
        let pass = match choice.pass {
            LoraPass::Both => "",
            LoraPass::Positive => ", positive pass only",
        };
        progress.note(&format!(
            "LoRA {name}: rank {rank}, scale {scale}, matrices changed: {matrices}{pass}"
        ));
        if !unmatched.is_empty() {
            let first: Vec<&str> = unmatched.iter().map(String::as_str).take(FEW).collect();
            let more = if unmatched.len() > FEW { ", ..." } else { "" };
            progress.note(&format!(
                "LoRA {name}: ignored, because they match no module of the transformer, {}: {}{more}",
                unmatched.len(),
                first.join(", "),
            ));
        }
    }
}
