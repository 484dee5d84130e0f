//! A chat in progress: reads a line, does what it says, shows what came of it.

use super::command::{self, COMMANDS, Command, Swipe};
use super::input::{Input, Lines};
use super::reply::{self, Measured, Spoken};
use super::save::{self, SaveFiles};
use super::screen::Screen;
use super::world::{self, Moment, World};
use crate::interrupt;
use anyhow::Result;
use serde_json::json;
use std::path::PathBuf;
use troupe_dialogue::{ChatError, ChatModel, NodeId, Side, Speaker};
use troupe_roleplay::session::{Accepted, ChatSession};
use troupe_roleplay::suggest::Suggestion;

/// Texts that are shown again when a saved chat goes on.
const RECAP: usize = 4;

/// A chat in progress.
pub struct Chat {
    pub(super) model: Box<dyn ChatModel>,
    pub(super) model_name: String,
    pub(super) session: ChatSession,
    pub(super) world: World,
    pub(super) screen: Screen,
    files: SaveFiles,
    suggestions: Vec<Suggestion>,
    pub(super) last: Option<Measured>,
    unsaved: bool,
}

/// Which words of the character are asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ask {
    Next,
    More,
    Again,
}

impl Chat {
    /// A chat that has not begun yet.
    pub fn new(
        model: Box<dyn ChatModel>,
        model_name: String,
        session: ChatSession,
        world: World,
        screen: Screen,
        files: SaveFiles,
    ) -> Self {
        Chat {
            model,
            model_name,
            session,
            world,
            screen,
            files,
            suggestions: Vec::new(),
            last: None,
            unsaved: false,
        }
    }

    /// Shows where the chat stands and lets the character open where it does.
    pub fn begin(&mut self) -> Result<()> {
        if self.screen.is_interactive() {
            eprintln!("/help lists the commands");
        }
        let path = self.session.tree().path();
        for &id in path.iter().skip(path.len().saturating_sub(RECAP)) {
            self.show_text(id, if path.len() == 1 { "greeting" } else { "text" })?;
        }
        if let [_] = path[..]
            && let Ok((shown, of)) = self.session.swipes()
            && of > 1
            && self.screen.is_interactive()
        {
            self.screen.note(&format!("greeting {shown} of {of}; `/swipe 2` shows another"));
        }
        if self.session.awaits_reply() {
            self.reply(Ask::Next)?;
        }
        Ok(())
    }

    /// Reads lines to their end, or to `/quit`.
    pub fn talk(&mut self, lines: &Lines) -> Result<()> {
        loop {
            let name = self.session.scene().display_name(Side::User);
            let input = lines.next(|continued| self.screen.prompt(name, continued))?;
            let line = match input {
                Input::Line(line) => line,
                Input::End | Input::Interrupted => break,
            };
            match command::parse(&line) {
                Ok(Command::Quit) => break,
                Ok(command) => self.obey(command)?,
                Err(problem) => {
                    self.screen.problem(&problem, Some("`/help` lists the commands"))?;
                }
            }
        }
        if self.unsaved && self.screen.is_interactive() {
            self.screen.note("this chat was not saved; `--save FILE` or `/save FILE` would");
        }
        Ok(())
    }

    fn obey(&mut self, command: Command) -> Result<()> {
        match command {
            Command::Say(words) => match self.session.say(&words) {
                Ok(_) => self.reply(Ask::Next),
                Err(problem) => Ok(self.screen.problem(&problem.to_string(), None)?),
            },
            Command::Use(number) => self.say_suggestion(number),
            Command::Retry => self.reply(Ask::Again),
            Command::Continue => self.reply(Ask::More),
            Command::Swipe(which) => self.swipe(&which),
            Command::Suggest(wanted) => self.suggest(wanted),
            Command::Undo => self.undo(),
            Command::Save(path) => self.save(path),
            Command::Info => self.info(),
            Command::Help => {
                let object = json!({ "type": "help", "text": COMMANDS });
                Ok(self.screen.answer(COMMANDS, object)?)
            }
            Command::Nothing | Command::Quit => Ok(()),
        }
    }

    /// Asks for the character's words until there are some, and saves.
    fn reply(&mut self, ask: Ask) -> Result<()> {
        self.suggestions.clear();
        self.set_insertions(ask);
        let mut request = match ask {
            Ask::Again => self.session.retry(),
            Ask::Next | Ask::More => self.session.request_reply(),
        };
        let name = self.session.scene().npc.name.clone();
        loop {
            let seed = request.seed;
            let cleaner = self.session.stream_cleaner();
            let model = &mut *self.model;
            let spoken = match reply::speak(model, request, cleaner, &name, &self.screen)? {
                Ok(spoken) => spoken,
                Err(error) => {
                    self.model_problem(&error)?;
                    break;
                }
            };
            match self.session.accept_reply(&spoken.reply)? {
                Accepted::Kept(id) => {
                    self.finish(id, &spoken, seed)?;
                    break;
                }
                Accepted::TryAgain(next) => {
                    self.end_line(&spoken)?;
                    self.screen.note("the model said nothing for its part; it is asked again");
                    request = *next;
                }
                Accepted::Fallback(id) => {
                    self.end_line(&spoken)?;
                    self.screen.note("the model said nothing for its part; `/retry` asks again");
                    self.finish(id, &Spoken { shown: String::new(), ..spoken }, seed)?;
                    break;
                }
                Accepted::Nothing => {
                    self.end_line(&spoken)?;
                    self.screen.note("nothing was said; `/retry` asks again");
                    break;
                }
            }
        }
        if self.screen.is_interactive() {
            // This Ctrl-C was for the reply. A script's is for the script.
            interrupt::clear();
        }
        self.changed()
    }

    fn set_insertions(&mut self, ask: Ask) {
        let tree = self.session.tree();
        let head = tree.head().map(|id| tree.node(id));
        let again = ask == Ask::Again && head.is_some_and(|node| node.speaker == Speaker::Npc);
        let moment = Moment {
            session: &self.session,
            end: if again { head.and_then(|node| node.parent) } else { tree.head() },
            trigger: match ask {
                Ask::Next => "normal",
                Ask::More => "continue",
                Ask::Again => "swipe",
            },
            model: &*self.model,
            model_name: &self.model_name,
        };
        let screen = &self.screen;
        let insertions = self.world.insertions(&moment, &mut |note| screen.note(note));
        self.session.set_insertions(insertions);
    }

    /// Shows what is left to show of a kept reply, and remembers its figures.
    fn finish(&mut self, id: NodeId, spoken: &Spoken, seed: u64) -> Result<()> {
        let Spoken { reply, shown, elapsed, .. } = spoken;
        let text = &self.session.tree().node(id).text;
        if shown.is_empty() {
            self.screen.say(&self.session.scene().npc.name, text)?;
        } else if let Some(rest) = text.strip_prefix(shown.as_str()) {
            self.screen.piece(rest)?;
            self.screen.end()?;
        } else {
            self.screen.end()?;
            if shown.starts_with(text.as_str()) {
                let kept = text.chars().count();
                self.screen.note(&format!("the first {kept} characters are kept"));
            } else {
                self.screen.note(&format!("this is kept as: {text}"));
            }
        }
        let was_full = self.last.as_ref().is_some_and(Measured::is_context_full);
        if reply.dropped_messages > 0 && !was_full {
            let dropped = reply.dropped_messages;
            self.screen.note(&format!(
                "the context is full: {dropped} oldest messages are left out from here on"
            ));
        }
        let (swipe, swipes) = self.session.swipes().unwrap_or((1, 1));
        self.screen.object(json!({
            "type": "reply",
            "node": id,
            "text": text,
            "tokens": reply.ids.len(),
            "stop": reply.stop,
            "swipe": swipe,
            "swipes": swipes,
            "seed": seed,
            "prompt_tokens": reply.prompt_tokens,
            "cached_tokens": reply.cached_tokens,
            "dropped_messages": reply.dropped_messages,
            "seconds": reply::rounded(elapsed.as_secs_f64()),
            "fallback": self.session.tree().node(id).sample.is_none(),
        }))?;
        self.last = Some(Measured::of(spoken));
        Ok(())
    }

    /// A request failed; the chat can go on.
    fn model_problem(&self, error: &ChatError) -> Result<()> {
        let hint = match error {
            ChatError::ContextTooLong { .. } => {
                Some("raise `--context`, or take a shorter card or fewer lorebooks")
            }
            _ => None,
        };
        Ok(self.screen.problem(&error.to_string(), hint)?)
    }

    fn end_line(&self, spoken: &Spoken) -> Result<()> {
        if !spoken.shown.is_empty() {
            self.screen.end()?;
        }
        Ok(())
    }

    fn show_text(&self, id: NodeId, kind: &str) -> Result<()> {
        let node = self.session.tree().node(id);
        let name = match node.speaker {
            Speaker::Npc => self.session.scene().display_name(Side::Npc),
            Speaker::User => self.session.scene().display_name(Side::User),
            Speaker::Narrator => "*",
        };
        self.screen.say(node.name.as_deref().unwrap_or(name), &node.text)?;
        let swipes = self.session.tree().swipes(id);
        let swipe = swipes.iter().position(|&other| other == id).map_or(1, |at| at + 1);
        self.screen.object(json!({
            "type": kind,
            "node": id,
            "speaker": node.speaker,
            "text": node.text,
            "swipe": swipe,
            "swipes": swipes.len(),
        }))?;
        Ok(())
    }

    fn swipe(&mut self, which: &Swipe) -> Result<()> {
        let moved = self.session.swipes().and_then(|(shown, _)| match which {
            Swipe::Shown => Ok(()),
            Swipe::Number(number) => self.session.swipe(*number).map(|_| ()),
            Swipe::Next => self.session.swipe(shown + 1).map(|_| ()),
            Swipe::Previous => self.session.swipe(shown - 1).map(|_| ()),
        });
        if let Err(problem) = moved {
            let hint = Some("`/retry` makes another").filter(|_| *which == Swipe::Next);
            return Ok(self.screen.problem(&problem.to_string(), hint)?);
        }
        let (shown, of) = self.session.swipes()?;
        if !self.screen.is_json() {
            self.screen.note(&format!("reply {shown} of {of}"));
        }
        if let Some(head) = self.session.tree().head() {
            self.show_text(head, "swipe")?;
        }
        if *which != Swipe::Shown {
            self.suggestions.clear();
            self.changed()?;
        }
        Ok(())
    }

    fn suggest(&mut self, wanted: usize) -> Result<()> {
        let suggester = self.session.suggester(wanted);
        let found = match reply::suggest(&mut *self.model, suggester) {
            Ok(found) => found,
            Err(error) => return self.model_problem(&error),
        };
        if self.screen.is_interactive() {
            interrupt::clear();
        }
        if found.lines.len() < wanted {
            let (n, asked) = (found.lines.len(), found.asked);
            let others =
                format!("{} repeated another, {} were empty", found.duplicates, found.empty);
            self.screen.note(&format!("{n} different lines out of {asked}: {others}"));
        }
        self.suggestions = found.lines;
        let texts: Vec<&str> = self.suggestions.iter().map(|line| &*line.text).collect();
        let object = json!({ "type": "suggestions", "lines": texts });
        let numbered: Vec<String> =
            texts.iter().enumerate().map(|(i, text)| format!("{}. {text}", i + 1)).collect();
        if !numbered.is_empty() || self.screen.is_json() {
            self.screen.answer(&numbered.join("\n"), object)?;
        }
        Ok(())
    }

    fn say_suggestion(&mut self, number: usize) -> Result<()> {
        if number > self.suggestions.len() {
            let problem = match self.suggestions.len() {
                0 => "there are no suggested lines now".to_owned(),
                count => format!("there is no line {number}: {count} were suggested"),
            };
            return Ok(self.screen.problem(&problem, Some("`/suggest` looks for some"))?);
        }
        let suggestion = self.suggestions.swap_remove(number - 1);
        let id = self.session.say_suggestion(suggestion);
        self.show_text(id, "text")?;
        self.reply(Ask::Next)
    }

    fn undo(&mut self) -> Result<()> {
        let count = match self.session.undo() {
            Ok(count) => count,
            Err(problem) => return Ok(self.screen.problem(&problem.to_string(), None)?),
        };
        self.suggestions.clear();
        if !self.screen.is_json() {
            let texts = if count == 1 { "text" } else { "texts" };
            self.screen.note(&format!("took back {count} {texts}; they stay in the tree"));
        }
        self.screen.object(json!({ "type": "undo", "texts": count }))?;
        if let Some(head) = self.session.tree().head()
            && !self.screen.is_json()
        {
            self.show_text(head, "text")?;
        }
        self.changed()
    }

    fn save(&mut self, path: Option<PathBuf>) -> Result<()> {
        let Some(path) = path.or_else(|| self.files.usual.clone()) else {
            let hint = Some("`/save FILE` names one");
            return Ok(self.screen.problem("there is no file to save to", hint)?);
        };
        let is_usual = self.files.usual.as_ref() == Some(&path);
        let text = self.saved();
        let written = match is_usual {
            true => save::write_whole(&path, &text).map_err(anyhow::Error::new),
            false => save::write_chosen(&path, &text),
        };
        if let Err(problem) = written {
            return Ok(self.screen.problem(&format!("{problem:#}"), None)?);
        }
        self.screen.note(&format!("saved to `{}`", path.display()));
        let shown = path.to_string_lossy();
        self.screen.object(json!({ "type": "saved", "file": shown }))?;
        self.files.usual = Some(path);
        self.unsaved = false;
        Ok(())
    }

    fn changed(&mut self) -> Result<()> {
        self.unsaved = true;
        self.autosave()
    }

    /// Writes the tree where `--save` says. A full disk does not end a chat.
    fn autosave(&mut self) -> Result<()> {
        let Some(path) = self.files.autosave.clone() else { return Ok(()) };
        match save::write_whole(&path, &self.saved()) {
            Ok(()) => self.unsaved = false,
            Err(error) => {
                let problem = format!("cannot write `{}`: {error}", path.display());
                self.screen.problem(&problem, Some("`/save FILE` saves elsewhere"))?;
            }
        }
        Ok(())
    }

    /// The dialogue tree with everything that going on needs in its meta.
    fn saved(&self) -> String {
        let mut tree = self.session.tree().clone();
        tree.meta.insert("model".into(), json!(self.model_name));
        match self.world.to_meta() {
            Some(world) => tree.meta.insert(world::META.into(), world),
            None => tree.meta.remove(world::META),
        };
        tree.to_json() + "\n"
    }
}
