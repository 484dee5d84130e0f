//! Saved chats: written whole or not at all, and never over something else.

use crate::fail::WithHint;
use anyhow::{Context, Result, bail};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use troupe_dialogue::DialogueTree;

/// Where a chat is written.
#[derive(Debug, Default)]
pub struct SaveFiles {
    /// After every turn.
    pub autosave: Option<PathBuf>,
    /// Where `/save` without a name goes.
    pub usual: Option<PathBuf>,
}

impl SaveFiles {
    /// A file that is there already is only written to when the chat came from it.
    pub fn new(autosave: Option<&Path>, loaded: Option<&Path>) -> Result<Self> {
        if let Some(path) = autosave
            && !loaded.is_some_and(|loaded| is_same(loaded, path))
            && fs::metadata(path).is_ok_and(|found| found.len() > 0)
        {
            let shown = path.display();
            return Err(anyhow::anyhow!("`{shown}` is there already"))
                .hint(format!("`--load {shown} --save {shown}` goes on with it"));
        }
        if let Some(path) = autosave {
            check_folder(path)?;
        }
        let usual = autosave.or(loaded).map(Path::to_owned);
        Ok(SaveFiles { autosave: autosave.map(Path::to_owned), usual })
    }
}

/// Writes a chat to a file that somebody named: a new one, or an older chat's.
pub fn write_chosen(path: &Path, text: &str) -> Result<()> {
    check_folder(path)?;
    if let Ok(before) = fs::read(path)
        && !before.is_empty()
        && !str::from_utf8(&before).is_ok_and(|text| DialogueTree::from_json(text).is_ok())
    {
        bail!("`{}` is there already and is no saved chat", path.display());
    }
    write_whole(path, text).with_context(|| format!("cannot write `{}`", path.display()))
}

/// Writes a file under a temporary name beside it, then renames it: whoever looks sees
/// the old content or the new one.
pub fn write_whole(path: &Path, text: &str) -> io::Result<()> {
    let mut name = OsString::from(".");
    name.push(path.file_name().ok_or(io::ErrorKind::InvalidFilename)?);
    name.push(format!(".{}.part", std::process::id()));
    let part = path.with_file_name(name);
    let written = (|| {
        let mut file = File::create(&part)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&part, path)
    })();
    if written.is_err() {
        // The error says more than a failure to tidy up would.
        let _ = fs::remove_file(&part);
    }
    written
}

/// Refuses a file in a folder that is not there.
pub fn check_folder(path: &Path) -> Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    match folder {
        Some(folder) if !folder.is_dir() => {
            bail!("cannot write `{}`: there is no folder `{}`", path.display(), folder.display())
        }
        _ if path.is_dir() => bail!("cannot write `{}`: it is a folder", path.display()),
        _ => Ok(()),
    }
}

/// Whether two paths lead to one file.
pub fn is_same(a: &Path, b: &Path) -> bool {
    match (fs::canonicalize(a), fs::canonicalize(b)) {
        (Ok(a), Ok(b)) => a == b,
        _ => a == b,
    }
}
