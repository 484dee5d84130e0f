//! `/info`: how a chat stands.

use super::reply::Measured;
use super::talk::Chat;
use anyhow::Result;
use serde_json::json;

impl Chat {
    /// Shows figures of the chat, its last reply and its lorebooks.
    pub(super) fn info(&self) -> Result<()> {
        let (session, tree) = (&self.session, self.session.tree());
        let (path, nodes, context) =
            (tree.path().len(), tree.nodes().len(), self.model.context_tokens());
        let seed = session.settings().seed;
        let mut lines = vec![
            format!("character: {} (scene {})", session.scene().npc.name, session.scene().id),
            format!("model: {}, context of {context} tokens", self.model_name),
            format!("texts: {path} in this line of the story, {nodes} with all alternatives"),
            format!("seed: {seed}"),
        ];
        if let Some(last) = &self.last {
            lines.push(last.in_words());
        }
        if self.world.entries() > 0 {
            let list = |names: &[String]| match names {
                [] => "none".to_owned(),
                names => names.join(", "),
            };
            let (active, left_out) = (self.world.active(), self.world.left_out());
            let entries = self.world.entries();
            lines.push(format!("lorebook: {entries} entries, active: {}", list(active)));
            if !left_out.is_empty() {
                lines.push(format!("left out for want of tokens: {}", list(left_out)));
            }
        }
        let object = json!({
            "type": "info",
            "character": session.scene().npc.name,
            "scene": session.scene().id,
            "model": self.model_name,
            "context_tokens": context,
            "texts": path,
            "nodes": nodes,
            "seed": seed,
            "last_reply": self.last.as_ref().map(Measured::to_json),
            "lorebook_active": self.world.active(),
            "lorebook_left_out": self.world.left_out(),
        });
        Ok(self.screen.answer(&lines.join("\n"), object)?)
    }
}
