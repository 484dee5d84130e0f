//! `troupe quickstart`: the main job on what the program carries with it.
//!
//! Until a trained model ships in `checkpoints/`, this plays a scene with a tiny random
//! one, and says so: it shows that loading, templates, both views and sampling work, and
//! nothing about quality.

use anyhow::{Context, Result};
use clap::Args;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use troupe_dialogue::{Sampling, Speaker};
use troupe_engine::{EngineConfig, LocalEngine, Model, WeightDtype};
use troupe_ops::DeviceChoice;
use troupe_roleplay::prompt::{ReplyLength, Shape, SideSettings};
use troupe_roleplay::scene::read_scenes;
use troupe_roleplay::selfplay::{PlayEvent, PlaySettings, play};

/// Play a scene with the built-in model: no network, no GPU, no files needed
#[derive(Args)]
#[command(after_help = "Example:
  troupe quickstart --turns 6")]
pub struct QuickstartArgs {
    /// Lines of the scene, the opening not counted
    #[arg(long, default_value_t = 4)]
    turns: usize,
    /// The same seed gives the same scene
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

/// The random model of the golden set: 2 layers, 320 byte-level tokens.
const MODEL: [(&str, &[u8]); 4] = [
    ("config.json", include_bytes!("../../../tests/golden/tiny-qwen3/config.json")),
    ("model.safetensors", include_bytes!("../../../tests/golden/tiny-qwen3/model.safetensors")),
    ("tokenizer.json", include_bytes!("../../../tests/golden/tiny-qwen3/tokenizer.json")),
    (
        "tokenizer_config.json",
        include_bytes!("../../../tests/golden/tiny-qwen3/tokenizer_config.json"),
    ),
];

const SCENE: &str = r#"{"lang": "en", "npc": {"name": "Marrow", "persona": "Keeps a lighthouse.",
"greeting": "You picked a night for it."}, "user": {"name": "Wren", "persona": "Rows."}}"#;

/// Runs the command.
pub fn run(args: &QuickstartArgs) -> Result<()> {
    let folder = std::env::temp_dir().join(format!("troupe-quickstart-{}", std::process::id()));
    let outcome = scene(args, &folder);
    // The folder is ours alone; leaving it behind would be no failure of the command.
    let _ = std::fs::remove_dir_all(&folder);
    outcome
}

fn scene(args: &QuickstartArgs, folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).context("cannot make a temporary folder")?;
    for (name, bytes) in MODEL {
        std::fs::write(folder.join(name), bytes).context("cannot write a temporary file")?;
    }
    let device = DeviceChoice::Best.open()?;
    println!("device: {}", DeviceChoice::name_of(&device));
    println!("model: a tiny random one, untrained; its lines are noise by nature");
    let model = Model::load(folder, WeightDtype::Keep, &device)?;
    let mut engine = LocalEngine::new(model, EngineConfig::default())?;
    let line = SCENE.replace('\n', " ");
    let (scenes, problems) = read_scenes(line.as_bytes());
    anyhow::ensure!(problems.is_empty(), "the built-in scene is broken: {problems:?}");
    let side = SideSettings {
        sampling: Sampling { temperature: 0.7, ..Sampling::default() },
        max_new_tokens: 24,
        reply_length: ReplyLength::Short,
    };
    let settings = PlaySettings {
        turns: args.turns,
        repeats: 1,
        seed: args.seed,
        parallel: 1,
        max_retries: 2,
        shape: Shape::Alternating,
        npc: side.clone(),
        user: side,
    };
    let mut tree = None;
    let done = Default::default();
    let stop = AtomicBool::new(false);
    play(&mut engine, &scenes, &settings, &done, &stop, &mut |event| {
        if let PlayEvent::Finished(finished) = event {
            tree = Some(finished.tree);
        }
    })?;
    let tree = tree.context("the scene did not finish")?;
    println!();
    for id in tree.path() {
        let node = tree.node(id);
        let name = match node.speaker {
            Speaker::Npc => "Marrow",
            Speaker::User => "Wren",
            Speaker::Narrator => "",
        };
        println!("{name}: {}", node.text.escape_debug());
    }
    println!("\nnext: `troupe chat --model MODEL` with a GGUF file or a model folder");
    Ok(())
}
