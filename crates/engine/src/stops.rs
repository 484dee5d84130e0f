//! Stop strings over text that arrives in pieces.

/// Watches a reply's text and lets through what can no longer be part of a stop string.
#[derive(Debug, Clone)]
pub struct StopWatch {
    stops: Vec<String>,
    held: String,
}

/// What a piece of text led to.
#[derive(Debug, PartialEq, Eq)]
pub enum Watched {
    /// This much more text is final.
    Text(String),
    /// This much more text is final, and then a stop string began: the reply is over.
    Stop(String),
}

impl StopWatch {
    /// Watches for these strings; empty ones are ignored.
    pub fn new(stops: &[String]) -> Self {
        let stops = stops.iter().filter(|s| !s.is_empty()).cloned().collect();
        StopWatch { stops, held: String::new() }
    }

    /// Takes the next piece of text.
    pub fn push(&mut self, text: &str) -> Watched {
        self.held.push_str(text);
        if let Some(at) = self.stops.iter().filter_map(|s| self.held.find(s.as_str())).min() {
            self.held.truncate(at);
            return Watched::Stop(std::mem::take(&mut self.held));
        }
        let keep = self.stops.iter().map(|s| partial_match(&self.held, s)).max().unwrap_or(0);
        Watched::Text(self.held.drain(..self.held.len() - keep).collect())
    }

    /// The reply is over: the text that was held back.
    pub fn finish(self) -> String {
        self.held
    }
}

/// Bytes of the longest end of `text` with which `stop` begins.
fn partial_match(text: &str, stop: &str) -> usize {
    let longest = text.len().min(stop.len() - 1);
    (1..=longest)
        .rev()
        .find(|&n| stop.is_char_boundary(n) && text.ends_with(&stop[..n]))
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(stops: &[&str], pieces: &[&str]) -> (String, bool) {
        let stops: Vec<String> = stops.iter().map(|s| s.to_string()).collect();
        let mut watch = StopWatch::new(&stops);
        let mut text = String::new();
        for piece in pieces {
            match watch.push(piece) {
                Watched::Text(more) => text.push_str(&more),
                Watched::Stop(more) => return (text + &more, true),
            }
        }
        (text + &watch.finish(), false)
    }

    #[test]
    fn a_stop_string_is_found_across_pieces() {
        assert_eq!(run(&["\nUser:"], &["hi\n", "Us", "er: x"]), ("hi".into(), true));
        assert_eq!(run(&["\nUser:"], &["hi\n", "Us", "e it"]), ("hi\nUse it".into(), false));
        assert_eq!(run(&["aab"], &["a", "a", "a", "b"]), ("a".into(), true));
    }

    #[test]
    fn the_earliest_of_several_wins_and_empty_ones_are_ignored() {
        assert_eq!(run(&["b", "ab"], &["xab"]), ("x".into(), true));
        assert_eq!(run(&["", "。："], &["好。", "：", "再"]), ("好".into(), true));
        assert_eq!(run(&[""], &["abc"]), ("abc".into(), false));
    }

    #[test]
    fn nothing_that_could_begin_a_stop_string_is_let_through() {
        let mut watch = StopWatch::new(&["\n\nEND".to_string()]);
        assert_eq!(watch.push("a\n"), Watched::Text("a".into()));
        assert_eq!(watch.push("\n"), Watched::Text(String::new()));
        assert_eq!(watch.push("b"), Watched::Text("\n\nb".into()));
    }
}
