//! The disk cache of compiled kernels.
//!
//! An entry is one file: a line of magic, the key (what was compiled, how, by whom), a checksum, the image. Its name is
//! the hash of the key; key and checksum are compared when it is read, so an entry that is cut short, altered or of
//! another key is compiled again and not loaded. Files appear by renaming, whole or not at all. The cache is a
//! convenience: where it cannot be written, everything works, slower.

use std::hash::{DefaultHasher, Hasher};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::Text;
use super::nvrtc::{self, Nvrtc};
use crate::Result;

const MAGIC: &[u8] = b"colatent kernel 1\n";

/// The folder: `COLATENT_CACHE_DIR`, else `colatent` in the user's cache folder, else none.
pub(crate) fn folder() -> Option<PathBuf> {
    let of = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    of("COLATENT_CACHE_DIR").or_else(|| {
        let base = of("XDG_CACHE_HOME").or_else(|| of("LOCALAPPDATA")).or_else(|| of("HOME").map(|h| h.join(".cache")));
        base.map(|b| b.join("colatent"))
    })
}

/// The cubin of a kernel for `target`.
pub(super) fn image(text: &Text, target: &str) -> Result<Vec<u8>> {
    let nvrtc = Nvrtc::get()?;
    let make = || Ok(nvrtc.compile(text.kernel, &text.source, target)?.cubin);
    entry(folder().as_deref(), &key(&text.source, target), make)
}

/// Puts a cubin that was compiled from `source` where [`image`] will find it.
pub(super) fn keep(folder: Option<&Path>, source: &str, target: &str, cubin: &[u8]) {
    let key = key(source, target);
    if let Some(folder) = folder {
        let _ = store(&folder.join(name(&key)), &seal(&key, cubin));
    }
}

/// What was compiled, how and by whom.
fn key(source: &str, target: &str) -> String {
    [nvrtc::version_name().as_str(), target, &nvrtc::OPTIONS.join(" "), source].join("\n")
}

/// The image of `key`: from `folder` if a sound entry is there, else made and kept.
pub(super) fn entry(folder: Option<&Path>, key: &str, make: impl FnOnce() -> Result<Vec<u8>>) -> Result<Vec<u8>> {
    let path = folder.map(|f| f.join(name(key)));
    if let Some(image) = path.as_deref().and_then(|p| std::fs::read(p).ok()).and_then(|bytes| open(&bytes, key)) {
        return Ok(image);
    }
    let image = make()?;
    if let Some(path) = path {
        let _ = store(&path, &seal(key, &image));
    }
    Ok(image)
}

/// A file name that only this key has, but for collisions, which `open` notices.
pub(super) fn name(key: &str) -> String {
    format!("{:016x}{:016x}", hash(0, key.as_bytes()), hash(1, key.as_bytes()))
}

fn hash(seed: u8, bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write_u8(seed);
    hasher.write(bytes);
    hasher.finish()
}

fn seal(key: &str, image: &[u8]) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    for part in [key.as_bytes(), image] {
        bytes.extend((part.len() as u64).to_le_bytes());
        bytes.extend(hash(2, part).to_le_bytes());
        bytes.extend(part);
    }
    bytes
}

fn open(bytes: &[u8], key: &str) -> Option<Vec<u8>> {
    let mut rest = bytes.strip_prefix(MAGIC)?;
    let mut part = || {
        let (len, after) = rest.split_first_chunk::<8>()?;
        let (sum, after) = after.split_first_chunk::<8>()?;
        let (part, after) = after.split_at_checked(usize::try_from(u64::from_le_bytes(*len)).ok()?)?;
        rest = after;
        (hash(2, part) == u64::from_le_bytes(*sum)).then_some(part)
    };
    let (stored_key, image) = (part()?, part()?);
    (stored_key == key.as_bytes() && rest.is_empty()).then(|| image.to_vec())
}

/// Writes beside `path` and renames, so that readers see the whole file or none.
fn store(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let scratch = path.with_extension(format!("{}.{}.tmp", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)));
    let written = std::fs::write(&scratch, bytes).and_then(|()| std::fs::rename(&scratch, path));
    if written.is_err() {
        let _ = std::fs::remove_file(&scratch);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("colatent-cache-{}-{name}", std::process::id()))
    }

    #[test]
    fn an_entry_is_made_once() {
        let folder = scratch("once");
        let mut made = 0;
        for _ in 0..2 {
            let image = entry(Some(&folder), "key", || {
                made += 1;
                Ok(vec![1, 2, 3])
            });
            assert_eq!(image.unwrap(), [1, 2, 3]);
        }
        assert_eq!(made, 1);
        assert_eq!(entry(Some(&folder), "other key", || Ok(vec![4])).unwrap(), [4]);
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_damaged_entry_is_made_again_and_replaced() {
        let folder = scratch("damaged");
        let path = folder.join(name("key"));
        let sound = seal("key", &[7; 40]);
        let mut flipped = sound.clone();
        flipped[sound.len() - 1] ^= 1;
        let damaged =
            [flipped, sound[..sound.len() - 1].to_vec(), seal("another key", &[7; 40]), vec![], vec![0xff; 300]];
        for bytes in damaged {
            store(&path, &bytes).unwrap();
            assert_eq!(entry(Some(&folder), "key", || Ok(vec![9])).unwrap(), [9]);
            assert_eq!(std::fs::read(&path).unwrap(), seal("key", &[9]));
        }
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_folder_that_cannot_be_written_costs_nothing_but_time() {
        let file = scratch("file");
        std::fs::write(&file, "in the way").unwrap();
        assert_eq!(entry(Some(&file.join("below")), "key", || Ok(vec![5])).unwrap(), [5]);
        assert_eq!(entry(None, "key", || Ok(vec![6])).unwrap(), [6]);
        std::fs::remove_file(file).unwrap();
    }
}
