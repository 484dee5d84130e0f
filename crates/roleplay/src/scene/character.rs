//! A scene made of a character: its card, and whoever talks to it.
//!
//! The character's description and personality are the NPC's persona, the scenario is
//! the context, and the user's persona is visible to the character, because cards are
//! written that way. Macros are expanded once, here; lorebooks are not looked at.

use super::rows::{PersonaRow, SceneRow};
use super::{Lang, Persona, Scene, SceneError};
use crate::card::Card;
use crate::macros::Expander;
use crate::prompt::{Insertion, Place};

/// The fields of a character card that make a scene, macros already expanded.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CharacterFields {
    /// The character's name.
    pub name: String,
    /// Who the character is.
    pub description: String,
    /// In short, how the character is.
    pub personality: String,
    /// Where the dialogue happens.
    pub scenario: String,
    /// The first line.
    pub first_mes: String,
    /// Other first lines.
    pub alternate_greetings: Vec<String>,
    /// Example dialogues, `<START>` between them.
    pub mes_example: String,
    /// Replaces the NPC's rules when not empty; `{{original}}` stands for them.
    pub system_prompt: String,
    /// A last word to the NPC before each of its turns.
    pub post_history: String,
    /// The user's name; may be empty.
    pub user_name: String,
    /// Who the user is. Cards are written so that the character knows this.
    pub user_persona: String,
}

/// What a card gives to a chat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CardScene {
    /// The scene.
    pub scene: Scene,
    /// The card's note at a depth, to be inserted into each of the NPC's prompts.
    pub note: Option<Insertion>,
    /// Macros that are not known; they stand in the texts as they are.
    pub unknown_macros: Vec<String>,
}

impl Scene {
    /// A scene from a character's fields: the description and personality are the
    /// NPC's persona, the scenario is the context, and the user's persona is visible
    /// to the character. The language is that of the text.
    ///
    /// # Errors
    /// [`SceneError::NoName`] for a character without a name.
    pub fn from_character(fields: CharacterFields) -> Result<Scene, SceneError> {
        let all = [&fields.description, &fields.personality, &fields.scenario, &fields.first_mes];
        let lang = Lang::detect(all.into_iter().map(String::as_str));
        let personality = match (fields.personality.trim(), lang) {
            ("", _) => String::new(),
            (text, Lang::En) => format!("Personality: {text}"),
            (text, Lang::Zh) => format!("性格：{text}"),
        };
        let npc = PersonaRow {
            name: Some(fields.name),
            persona: Some(join_paragraphs(&[fields.description.trim(), &personality])),
            greeting: Some(fields.first_mes),
            alternate_greetings: Some(fields.alternate_greetings.into_iter().map(Some).collect()),
            example: Some(without_start_marks(&fields.mes_example)),
            ..PersonaRow::default()
        };
        let user = PersonaRow {
            name: Some(fields.user_name),
            visible: Some(fields.user_persona),
            ..PersonaRow::default()
        };
        Scene::try_from(SceneRow {
            npc: Some(npc),
            user: Some(user),
            context: Some(fields.scenario),
            lang: Some(lang.as_str().into()),
            system_prompt: Some(fields.system_prompt),
            post_history: Some(fields.post_history),
            ..SceneRow::default()
        })
    }

    /// A scene from a card and the user who talks to its character. `expander` speaks
    /// of the same two; see [`crate::macros::MacroContext::for_card`].
    ///
    /// # Errors
    /// [`SceneError::NoName`] for a card without a name.
    pub fn from_card(
        card: &Card,
        user: &Persona,
        expander: &mut Expander<'_>,
    ) -> Result<CardScene, SceneError> {
        let mut unknown_macros = Vec::new();
        let mut expand = |text: &str, original: Option<&str>| {
            let expansion = match original {
                Some(original) => expander.expand_override(text, original),
                None => expander.expand(text),
            };
            for name in expansion.unknown {
                if !unknown_macros.contains(&name) {
                    unknown_macros.push(name);
                }
            }
            expansion.text
        };
        let fields = CharacterFields {
            name: card.spoken_name().to_owned(),
            description: expand(&card.description, None),
            personality: expand(&card.personality, None),
            scenario: expand(&card.scenario, None),
            first_mes: expand(&card.first_mes, None),
            alternate_greetings: {
                card.alternate_greetings.iter().map(|text| expand(text, None)).collect()
            },
            mes_example: expand(&card.mes_example, None),
            // The rules that `{{original}}` stands for are only known to a view.
            system_prompt: expand(&card.system_prompt, Some(ORIGINAL_MARK))
                .replace(ORIGINAL_MARK, "{{original}}"),
            post_history: expand(&card.post_history_instructions, Some("")),
            user_name: user.name.clone(),
            user_persona: expand(&user.persona, None),
        };
        let note = card.depth_prompt().map(|note| Insertion {
            place: Place::Depth(note.depth as usize),
            text: expand(&note.prompt, None),
        });
        let mut scene = Scene::from_character(fields)?;
        if !user.visible.is_empty() {
            // A persona that tells what is seen from what is not keeps its secrets.
            scene.user.persona = std::mem::take(&mut scene.user.visible);
            scene.user.visible = expand(&user.visible, None);
        }
        scene.user.example = user.example.clone();
        Ok(CardScene { scene, note, unknown_macros })
    }
}

/// Holds the place of `{{original}}` while the text around it is expanded.
const ORIGINAL_MARK: &str = "\u{0}original\u{0}";

fn join_paragraphs(parts: &[&str]) -> String {
    let parts: Vec<&str> = parts.iter().copied().filter(|part| !part.is_empty()).collect();
    parts.join("\n\n")
}

fn without_start_marks(example: &str) -> String {
    let lines = example
        .lines()
        .map(|line| if line.trim().eq_ignore_ascii_case("<START>") { "" } else { line });
    lines.collect::<Vec<_>>().join("\n").trim().to_owned()
}
