//! Takes `card.json` out of a CHARX archive.
//!
//! One member is decompressed, with a limit on what may come out of it; all others
//! (assets, scripts, whatever a bomb hides in) stay compressed and unread. Nothing is
//! written to disk, so the names of members are only compared, never used as paths.
//! RisuAI puts a JPEG before the archive: the end record is looked for, not byte 0.

use super::error::CardError;
use super::{MAX_CHARX_ENTRIES, MAX_JSON_BYTES};
use std::io::{Cursor, Read};
use zip::ZipArchive;

/// The end record is the last thing in the file but for a comment of 16-bit length.
const END_RECORD_BYTES: usize = 22;
const END_RECORD: &[u8] = b"PK\x05\x06";

/// Whether a zip archive ends this file, whatever it begins with.
pub(super) fn has_end_record(bytes: &[u8]) -> bool {
    end_records(bytes).next().is_some()
}

/// The text of `card.json`.
///
/// # Errors
/// [`CardError::Zip`], [`CardError::ZipWithoutCard`], and [`CardError::TooLarge`] when
/// more comes out of the member, or more members are listed, than a card can need.
pub(super) fn card_json(bytes: &[u8]) -> Result<Vec<u8>, CardError> {
    check_entry_count(bytes)?;
    let unreadable = |e: zip::result::ZipError| CardError::Zip(e.to_string());
    let mut archive = ZipArchive::new(Cursor::new(bytes)).map_err(unreadable)?;
    let Some(index) = archive.index_for_name_raw(b"card.json") else {
        let nested = archive.file_names_raw().any(|name| name.ends_with(b"/card.json"));
        let hint = if nested { "; there is one inside a folder" } else { "" };
        return Err(CardError::ZipWithoutCard { hint });
    };
    let member = archive.by_index(index).map_err(unreadable)?;
    let mut json = Vec::new();
    let limit = MAX_JSON_BYTES as u64;
    let read = member.take(limit + 1).read_to_end(&mut json);
    read.map_err(|e| CardError::Zip(format!("`card.json`: {e}")))?;
    if json.len() > MAX_JSON_BYTES {
        let bytes = json.len() as u64;
        return Err(CardError::TooLarge { what: "`card.json`, unpacked,", bytes, limit });
    }
    Ok(json)
}

/// The zip reader keeps a record per member, so their number is limited before it is
/// asked. Each possible end record is tested: which one it will trust is its affair.
fn check_entry_count(bytes: &[u8]) -> Result<(), CardError> {
    for record in end_records(bytes) {
        let count = u16::from_le_bytes([record[10], record[11]]);
        let halves = record[8..12].chunks(2).any(|half| half == [0xff; 2]);
        let words = record[12..20].chunks(4).any(|word| word == [0xff; 4]);
        let zip64 = halves || words; // the true numbers then stand in another record
        if zip64 {
            return Err(CardError::Zip("it is a zip64 archive, far larger than a card".into()));
        }
        if usize::from(count) > MAX_CHARX_ENTRIES {
            return Err(CardError::Zip(format!(
                "it lists {count} members; at most {MAX_CHARX_ENTRIES} are read"
            )));
        }
    }
    Ok(())
}

/// All places near the end that look like an end record, with its fixed part.
fn end_records(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let start = bytes.len().saturating_sub(END_RECORD_BYTES + usize::from(u16::MAX));
    bytes[start..].windows(END_RECORD_BYTES).filter(|window| window.starts_with(END_RECORD))
}
