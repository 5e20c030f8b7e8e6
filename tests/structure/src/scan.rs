//! From a file's tokens to the paths that its code names. Comments and strings are no tokens, and
//! what stands in a macro's braces is looked at like any other code.

use proc_macro2::{Delimiter, Group, TokenStream, TokenTree};

use crate::crates::Module;

/// A path in code, as it is spelled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path {
    /// The module in which it is spelled; an inline `mod` counts.
    pub module: Module,
    pub segments: Vec<String>,
    /// For a `use`, the name that it brings into the module; `*` for all names.
    pub binds: Option<String>,
}

/// Every path of at least two segments, and every `use`.
pub fn paths(code: TokenStream, module: &Module) -> Vec<Path> {
    let mut found = Vec::new();
    scan(code, module, &mut found);
    found
}

fn scan(code: TokenStream, module: &Module, found: &mut Vec<Path>) {
    let tokens: Vec<TokenTree> = code.into_iter().collect();
    let mut at = 0;
    while at < tokens.len() {
        match &tokens[at] {
            TokenTree::Punct(punct) if punct.as_char() == '#' && is_test(tokens.get(at + 1)) => {
                at = after_item(&tokens, at + 2);
            }
            TokenTree::Ident(word) if word == "mod" => {
                if let (Some(TokenTree::Ident(name)), Some(TokenTree::Group(body))) =
                    (tokens.get(at + 1), tokens.get(at + 2))
                {
                    let mut inner = module.clone();
                    inner.push(name.to_string());
                    scan(body.stream(), &inner, found);
                }
                at += 3;
            }
            // Not `impl Trait + use<'a>`.
            TokenTree::Ident(word) if word == "use" && !is_mark(&tokens, at + 1, '<') => {
                let end = after_item(&tokens, at + 1);
                tree(&tokens[at + 1..end], &mut Vec::new(), module, found);
                at = end;
            }
            TokenTree::Ident(_) => {
                let (segments, end) = segments(&tokens, at);
                if segments.len() > 1 {
                    found.push(Path { module: module.clone(), segments, binds: None });
                }
                at = end;
            }
            TokenTree::Group(group) => {
                scan(group.stream(), module, found);
                at += 1;
            }
            TokenTree::Punct(_) | TokenTree::Literal(_) => at += 1,
        }
    }
}

/// `a::b::c` from here on, and the index after it.
fn segments(tokens: &[TokenTree], mut at: usize) -> (Vec<String>, usize) {
    let mut segments = Vec::new();
    while let Some(TokenTree::Ident(word)) = tokens.get(at) {
        segments.push(word.to_string());
        at += 1;
        if !is_separator(tokens, at) {
            break;
        }
        at += 2;
    }
    (segments, at)
}

/// One branch of a `use`: `a::b`, `a as b`, `a::*` or `a::{b, c}`, with `before` in front of it.
fn tree(tokens: &[TokenTree], before: &mut Vec<String>, module: &Module, found: &mut Vec<Path>) {
    let (segments, at) = segments(tokens, 0);
    let depth = before.len();
    before.extend(segments);
    let mut bind = |segments: &[String], name: Option<String>| {
        found.push(Path { module: module.clone(), segments: segments.to_vec(), binds: name });
    };
    match tokens.get(at) {
        Some(TokenTree::Group(group)) => {
            let inner: Vec<TokenTree> = group.stream().into_iter().collect();
            for branch in inner.split(|token| is_punct(token, ',')) {
                tree(branch, before, module, found);
            }
        }
        Some(token) if is_punct(token, '*') => bind(before, Some("*".to_owned())),
        _ if !before.is_empty() => {
            // In `a as b`, this is the word `as`.
            let alias = match tokens.get(at + 1) {
                Some(TokenTree::Ident(name)) => Some(name.to_string()),
                _ => None,
            };
            if before.last().is_some_and(|last| last == "self") && depth > 0 {
                before.pop();
            }
            let name = alias.or_else(|| before.last().cloned());
            bind(before, name);
        }
        _ => {}
    }
    before.truncate(depth);
}

/// `#[cfg(test)]`, also among other conditions; its opposite does not hide code from programs.
fn is_test(attribute: Option<&TokenTree>) -> bool {
    let Some(TokenTree::Group(group)) = attribute else { return false };
    let text: String = group.stream().to_string().split_whitespace().collect();
    text == "cfg(test)" || text.starts_with("cfg(all(test,")
}

/// After the `;` or the braces that end the item. Attributes may come before it.
fn after_item(tokens: &[TokenTree], mut at: usize) -> usize {
    let is_use = matches!(tokens.get(at.wrapping_sub(1)), Some(TokenTree::Ident(w)) if w == "use");
    while let Some(token) = tokens.get(at) {
        at += 1;
        let braces = matches!(token, TokenTree::Group(g) if is_braces(g)) && !is_use;
        if is_punct(token, ';') || braces {
            break;
        }
    }
    at
}

fn is_braces(group: &Group) -> bool {
    group.delimiter() == Delimiter::Brace
}

fn is_separator(tokens: &[TokenTree], at: usize) -> bool {
    is_mark(tokens, at, ':') && is_mark(tokens, at + 1, ':')
}

fn is_mark(tokens: &[TokenTree], at: usize, mark: char) -> bool {
    tokens.get(at).is_some_and(|token| is_punct(token, mark))
}

fn is_punct(token: &TokenTree, mark: char) -> bool {
    matches!(token, TokenTree::Punct(punct) if punct.as_char() == mark)
}
