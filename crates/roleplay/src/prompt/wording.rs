//! The words that a side is told, in English and in Chinese.
//!
//! They are short and concrete, and the rules stand last, because models of a hundred
//! million parameters follow what is near. Each text says who you are, what you know,
//! how the two stand, where they are, and then: one turn, this long, only your own.
//! Nothing here is sent; [`super::View`] puts it in front of a dialogue.

use super::ReplyLength;
use crate::scene::{Lang, Scene};
use troupe_dialogue::Side;

/// The system text of one side in its parts, none of them empty.
pub(super) fn system_parts(scene: &Scene, side: Side, length: ReplyLength) -> Vec<(Part, String)> {
    if side == Side::Npc && is_plain(scene) {
        return vec![(Part::Rules, scene.system_prompt.clone())];
    }
    let words = Words::new(scene, side, length);
    let (own, other) = (scene.persona(side), scene.persona(side.other()));
    let about = [own.persona.as_str(), own.visible.as_str()];
    let about: Vec<&str> = about.into_iter().filter(|text| !text.is_empty()).collect();
    let about = match (about.is_empty(), side) {
        (true, Side::User) => words.stranger(),
        _ => words.section(Part::About, &about.join("\n")),
    };
    let rules = match side {
        Side::Npc if !scene.system_prompt.is_empty() => {
            let once = scene.system_prompt.replacen("{{original}}", &words.rules(), 1);
            once.replace("{{original}}", "")
        }
        _ => words.rules(),
    };
    let mut parts = vec![
        (Part::Identity, words.identity()),
        (Part::About, about),
        (Part::Seen, words.section(Part::Seen, &other.visible)),
        (Part::Relationship, words.section(Part::Relationship, &scene.relationship)),
        (Part::Context, words.section(Part::Context, &scene.context)),
        (Part::Example, words.section(Part::Example, &own.example)),
        (Part::Rules, rules),
    ];
    parts.retain(|(_, text)| !text.is_empty());
    parts
}

/// Whether a scene is no role-play at all: it says nothing but a system prompt, which then
/// stands alone.
fn is_plain(scene: &Scene) -> bool {
    let (npc, user) = (&scene.npc, &scene.user);
    let texts = [&npc.persona, &npc.visible, &npc.example, &user.visible];
    !scene.system_prompt.is_empty()
        && !scene.system_prompt.contains("{{original}}")
        && texts.into_iter().chain([&scene.relationship, &scene.context]).all(String::is_empty)
        && scene.greetings().next().is_none()
}

/// The parts of a system text, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    Identity,
    About,
    Seen,
    Relationship,
    Context,
    Example,
    Rules,
}

/// Asks a side to say the first words of all.
pub(super) fn opening_cue(lang: Lang) -> &'static str {
    match lang {
        Lang::En => "(The scene begins. You speak first.)",
        Lang::Zh => "（场景开始，由你先开口。）",
    }
}

/// Asks a side to speak again after its own words.
pub(super) fn continue_cue(lang: Lang) -> &'static str {
    match lang {
        Lang::En => "(Go on.)",
        Lang::Zh => "（请接着说。）",
    }
}

/// A narrator's words within a turn of the other side.
pub(super) fn narration(lang: Lang, text: &str) -> String {
    match lang {
        Lang::En => format!("[{text}]"),
        Lang::Zh => format!("【{text}】"),
    }
}

struct Words<'a> {
    lang: Lang,
    side: Side,
    length: ReplyLength,
    own: &'a str,
    /// The other's name, or what to call someone without one.
    other: &'a str,
}

impl<'a> Words<'a> {
    fn new(scene: &'a Scene, side: Side, length: ReplyLength) -> Self {
        let other = match (scene.persona(side.other()).name.as_str(), scene.lang) {
            ("", Lang::En) => "the other person",
            ("", Lang::Zh) => "对方",
            (name, _) => name,
        };
        Words { lang: scene.lang, side, length, own: &scene.persona(side).name, other }
    }

    fn identity(&self) -> String {
        let Words { own, other, .. } = self;
        match (self.lang, self.side, own.is_empty()) {
            (Lang::En, Side::Npc, _) => format!(
                "You are {own}, talking with {other}. Stay in character: you are {own} and nobody else."
            ),
            (Lang::En, Side::User, false) => {
                format!("You are {own}, talking with {other}. Stay in character.")
            }
            (Lang::En, Side::User, true) => {
                format!("You are a person talking with {other}. Stay in character.")
            }
            (Lang::Zh, Side::Npc, _) => {
                format!("你是{own}，正在和{other}交谈。始终以{own}的身份说话，不要跳出角色。")
            }
            (Lang::Zh, Side::User, false) => {
                format!("你是{own}，正在和{other}交谈。不要跳出角色。")
            }
            (Lang::Zh, Side::User, true) => {
                format!("你扮演一个正在和{other}交谈的人。不要跳出角色。")
            }
        }
    }

    /// Who the user is when the scene does not say.
    fn stranger(&self) -> String {
        let other = self.other;
        match self.lang {
            Lang::En => {
                format!("About you: you came here on your own and want to get to know {other}.")
            }
            Lang::Zh => format!("关于你：你是自己找来的，想多了解{other}。"),
        }
    }

    fn section(&self, part: Part, text: &str) -> String {
        if text.is_empty() {
            return String::new();
        }
        let other = self.other;
        let heading = match (self.lang, part) {
            (_, Part::Identity | Part::Rules) => return text.to_owned(),
            (Lang::En, Part::About) => "About you:".to_owned(),
            (Lang::En, Part::Seen) => format!("What you know of {other}:"),
            (Lang::En, Part::Relationship) => format!("You and {other}:"),
            (Lang::En, Part::Context) => "The scene:".to_owned(),
            (Lang::En, Part::Example) => "How you talk, for example:".to_owned(),
            (Lang::Zh, Part::About) => "关于你：".to_owned(),
            (Lang::Zh, Part::Seen) => format!("你所知道的{other}："),
            (Lang::Zh, Part::Relationship) => format!("你和{other}的关系："),
            (Lang::Zh, Part::Context) => "场景：".to_owned(),
            (Lang::Zh, Part::Example) => "你说话的样子，例如：".to_owned(),
        };
        format!("{heading}\n{text}")
    }

    fn rules(&self) -> String {
        let (other, length) = (self.other, self.length_words());
        let own_will = match (self.lang, self.side) {
            (_, Side::Npc) => "",
            (Lang::En, Side::User) => {
                "You are not an assistant and do not offer help: you have aims of your own. \
                 Ask, answer, object, tell.\n"
            }
            (Lang::Zh, Side::User) => {
                "你不是助手，不要主动提供帮助；你有自己的目的，可以提问、回答、反驳，也可以讲自己的事。\n"
            }
        };
        match self.lang {
            Lang::En => format!(
                "{own_will}Now write only your next turn: {length}. Then stop and let {other} answer.\n\
                 Mostly speak; a short action may stand between *asterisks*.\n\
                 Never write what {other} says, thinks or does. Put no name before your words. \
                 Speak English."
            ),
            Lang::Zh => format!(
                "{own_will}现在只写你的下一次发言：{length}，写完就停，等{other}回应。\n\
                 以说话为主，简短的动作可以写在（括号）里。\n\
                 不要替{other}说话、思考或行动，开头不要写名字。用中文说。"
            ),
        }
    }

    fn length_words(&self) -> &'static str {
        match (self.lang, self.length) {
            (Lang::En, ReplyLength::Short) => "one or two short sentences",
            (Lang::En, ReplyLength::Medium) => "two to four sentences",
            (Lang::En, ReplyLength::Long) => "one or two paragraphs",
            (Lang::Zh, ReplyLength::Short) => "一两句短话",
            (Lang::Zh, ReplyLength::Medium) => "两到四句话",
            (Lang::Zh, ReplyLength::Long) => "一两段话",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_system_prompt_that_is_alone_stays_alone() {
        let parts = |json: &str, side| {
            let scene: Scene = serde_json::from_str(json).unwrap();
            system_parts(&scene, side, ReplyLength::Medium)
        };
        let plain = r#"{"npc": {"name": "Assistant"}, "system_prompt": "Be brief."}"#;
        assert_eq!(parts(plain, Side::Npc), [(Part::Rules, "Be brief.".to_owned())]);
        assert_eq!(parts(plain, Side::User)[0].0, Part::Identity);
        let card = r#"{"npc": {"name": "Ash", "greeting": "Purr."}, "system_prompt": "Be brief."}"#;
        assert_eq!(parts(card, Side::Npc)[0].0, Part::Identity);
    }
}
