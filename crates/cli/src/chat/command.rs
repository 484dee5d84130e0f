//! What a line typed into a chat means: words to say, or a command behind a slash.

use std::path::PathBuf;

/// The commands, for people.
pub const COMMANDS: &str = "  /retry         another reply; the earlier one stays as a swipe
  /swipe N       show reply N; + and - step; alone: which of how many
  /suggest [K]   K lines that you could say next (3 if K is not given)
  /N, /use N     say the suggested line N
  /continue      let the character go on
  /undo          take back your last line and what followed it
  /save [FILE]   write the whole dialogue tree
  /info          context, speed, seed, active lorebook entries
  /help, /quit
A line that ends in \\ goes on in the next one. A line that begins with // is said with one /.";

/// How many lines `/suggest` looks for when it is not told.
const SUGGESTIONS: usize = 3;
/// More are hard to choose from and long to wait for.
const MOST_SUGGESTIONS: usize = 20;

/// A line, understood.
#[derive(Debug, PartialEq, Eq)]
pub enum Command {
    /// Words for the character.
    Say(String),
    /// Another reply.
    Retry,
    /// More from the character.
    Continue,
    /// One of several replies.
    Swipe(Swipe),
    /// So many lines that the user could say.
    Suggest(usize),
    /// Say the suggested line of this number, from 1.
    Use(usize),
    /// Take the user's last line back.
    Undo,
    /// Write the tree, here or where it was written before.
    Save(Option<PathBuf>),
    /// Say how things stand.
    Info,
    /// List the commands.
    Help,
    /// End.
    Quit,
    /// An empty line.
    Nothing,
}

/// Which of the replies.
#[derive(Debug, PartialEq, Eq)]
pub enum Swipe {
    /// The one that is shown now.
    Shown,
    /// This one, from 1.
    Number(usize),
    /// The one after.
    Next,
    /// The one before.
    Previous,
}

/// Reads a line; the error says what is wrong with a command.
pub fn parse(line: &str) -> Result<Command, String> {
    let line = line.trim();
    let Some(rest) = line.strip_prefix('/') else {
        return Ok(match line {
            "" => Command::Nothing,
            words => Command::Say(words.to_owned()),
        });
    };
    if rest.starts_with('/') {
        return Ok(Command::Say(rest.to_owned()));
    }
    let (name, argument) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let argument = argument.trim();
    let number = |what: &str| {
        let parsed = argument.parse::<usize>().ok().filter(|&n| n > 0);
        parsed.ok_or_else(|| format!("`/{name} {argument}`: expected {what}"))
    };
    let plain = |command| match argument {
        "" => Ok(command),
        _ => Err(format!("`/{name}` takes nothing after it, but got `{argument}`")),
    };
    match name {
        "retry" => plain(Command::Retry),
        "continue" => plain(Command::Continue),
        "swipe" => Ok(Command::Swipe(match argument {
            "" => Swipe::Shown,
            "+" => Swipe::Next,
            "-" => Swipe::Previous,
            _ => Swipe::Number(number("a number from 1, `+` or `-`")?),
        })),
        "suggest" if argument.is_empty() => Ok(Command::Suggest(SUGGESTIONS)),
        "suggest" => Ok(Command::Suggest(number("how many lines, from 1")?.min(MOST_SUGGESTIONS))),
        "use" => Ok(Command::Use(number("the number of a suggested line")?)),
        "undo" => plain(Command::Undo),
        "save" => Ok(Command::Save(Some(argument).filter(|a| !a.is_empty()).map(PathBuf::from))),
        "info" => plain(Command::Info),
        "help" | "?" => plain(Command::Help),
        "quit" | "exit" | "q" => plain(Command::Quit),
        _ => match name.parse::<usize>() {
            Ok(n) if n > 0 => plain(Command::Use(n)),
            _ => Err(format!("there is no command `/{name}`")),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_commands() {
        let say = |text: &str| Ok(Command::Say(text.to_owned()));
        assert_eq!(parse("  hello  "), say("hello"));
        assert_eq!(parse("//retry is a command"), say("/retry is a command"));
        assert_eq!(parse(" "), Ok(Command::Nothing));
        assert_eq!(parse("/retry"), Ok(Command::Retry));
        assert_eq!(parse("/swipe"), Ok(Command::Swipe(Swipe::Shown)));
        assert_eq!(parse("/swipe 2"), Ok(Command::Swipe(Swipe::Number(2))));
        assert_eq!(parse("/swipe +"), Ok(Command::Swipe(Swipe::Next)));
        assert_eq!(parse("/suggest"), Ok(Command::Suggest(3)));
        assert_eq!(parse("/suggest 9999"), Ok(Command::Suggest(20)));
        assert_eq!(parse("/2"), Ok(Command::Use(2)));
        assert_eq!(parse("/use 2"), Ok(Command::Use(2)));
        assert_eq!(parse("/save"), Ok(Command::Save(None)));
        assert_eq!(parse("/save my chat.json"), Ok(Command::Save(Some("my chat.json".into()))));
    }

    #[test]
    fn mistakes_are_named() {
        let problem = |line| parse(line).unwrap_err();
        assert_eq!(problem("/dance now"), "there is no command `/dance`");
        assert_eq!(problem("/0"), "there is no command `/0`");
        assert_eq!(problem("/"), "there is no command `/`");
        assert!(problem("/swipe two").contains("expected a number from 1"));
        assert!(problem("/suggest 0").contains("from 1"));
        assert!(problem("/undo 3").contains("takes nothing"));
    }
}
