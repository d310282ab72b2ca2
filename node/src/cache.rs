//! The cache folder: reference strings and proving keys, named by what determines them and checked on loading.

use std::{
    fs,
    path::{Path, PathBuf},
};

use lamina_circuits::slice::SliceCircuit;
use lamina_prover::{
    ProvingKey,
    srs::{Srs, SrsStore},
};
use lamina_verifier::{
    encoding,
    hash::{Digest, Hasher, SrsId},
    key::SliceKey,
};
use serde::{Deserialize, Serialize};

use crate::{
    failure::{Classify, Failure, Kind, Result},
    files::{self, Access, Existing},
};

/// Largest proving key that is read.
const MAX_KEY_BYTES: u64 = 8 << 30;

/// The cache folder.
#[derive(Clone, Debug)]
pub struct Cache {
    folder: PathBuf,
}

/// A reference string that the cache holds at some size.
#[derive(Clone, Debug, Serialize)]
pub struct StoredSrs {
    /// Its identifier, the same at every size.
    pub id: SrsId,
    /// It serves `2^k` rows.
    pub k: u32,
    /// Whether somebody may know its secret.
    pub insecure: bool,
    /// Where it came from, as its importer said.
    pub origin: Option<String>,
    /// Its file.
    pub file: PathBuf,
}

/// What an importer said about a reference string.
#[derive(Debug, Serialize, Deserialize)]
struct Origin {
    insecure: bool,
    ceremony: Option<String>,
}

impl Cache {
    /// The cache in `folder`.
    pub fn new(folder: PathBuf) -> Self {
        Cache { folder }
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn srs_folder(&self) -> PathBuf {
        self.folder.join("srs")
    }

    /// Where reference strings are.
    pub fn store(&self) -> SrsStore {
        SrsStore::new(self.srs_folder())
    }

    /// All reference strings, secure ones first, then by identifier and size.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn stored_srs(&self) -> Result<Vec<StoredSrs>> {
        let folder = self.srs_folder();
        if !folder.exists() {
            return Ok(vec![]);
        }
        let mut found = vec![];
        for entry in fs::read_dir(&folder).context(format_args!("cannot read {}", folder.display()))? {
            let file = entry?.path();
            let Some((id, k)) = srs_name(&file) else { continue };
            let origin = files::read(&folder.join(format!("{id}.json")), 1 << 16)
                .ok()
                .and_then(|bytes| serde_json::from_slice::<Origin>(&bytes).ok());
            // Without its note a string counts as insecure; loading it tells for sure.
            let insecure = origin.as_ref().is_none_or(|origin| origin.insecure);
            found.push(StoredSrs { id, k, insecure, origin: origin.and_then(|o| o.ceremony), file });
        }
        found.sort_by_key(|srs| (srs.insecure, srs.id, srs.k));
        Ok(found)
    }

    /// Keeps a reference string, with what is known of its origin.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn keep_srs(&self, srs: &Srs, ceremony: Option<&str>) -> Result<PathBuf> {
        files::create_folder(&self.srs_folder(), Access::Public)?;
        files::sweep(&self.srs_folder());
        let path = self.store().save(srs)?;
        let origin = Origin { insecure: srs.identity().insecure(), ceremony: ceremony.map(str::to_owned) };
        let note = self.srs_folder().join(format!("{}.json", srs.id()));
        files::write(&note, &serde_json::to_vec_pretty(&origin)?, Access::Public, Existing::Replace)?;
        Ok(path)
    }

    /// The reference string of a card at its size; a larger one is cut.
    ///
    /// # Errors
    /// It is not in the cache.
    pub fn srs(&self, id: SrsId, k: u32) -> Result<Srs> {
        let stored = self.stored_srs()?;
        let fits = stored.iter().filter(|srs| srs.id == id && srs.k >= k).min_by_key(|srs| srs.k);
        let Some(found) = fits else {
            return Err(Failure::new(
                Kind::Input,
                format_args!(
                    "reference string {id} for 2^{k} rows is not in the cache {}: import it with `lamina srs \
                     import FILE --k {k}`",
                    self.folder.display()
                ),
            ));
        };
        let srs = self.store().load(id, found.k).context(format_args!("reference string {id}"))?;
        if found.k == k {
            return Ok(srs);
        }
        let cut = srs.truncate(k)?;
        self.store().save(&cut)?;
        Ok(cut)
    }

    /// A development reference string for `2^k` rows: one that is there, or a new one.
    ///
    /// # Errors
    /// It cannot be drawn or written.
    pub fn insecure_srs(&self, k: u32) -> Result<Srs> {
        let stored = self.stored_srs()?;
        for found in stored.iter().filter(|srs| srs.insecure && srs.k == k) {
            // One that does not load is stale or damaged: a development string is replaced, not mourned.
            if let Ok(srs) = self.store().load(found.id, k) {
                return Ok(srs);
            }
        }
        let srs = Srs::generate_insecure(k)?;
        self.keep_srs(&srs, None)?;
        Ok(srs)
    }

    /// The proving key of a circuit, from the cache or generated and kept.
    ///
    /// A file that does not load, or whose verifying key is not `expected`, is stale and is replaced.
    ///
    /// # Errors
    /// Key generation fails, or generates another key than `expected`.
    pub fn key<C: SliceCircuit>(
        &self,
        srs: &Srs,
        circuit: &C,
        expected: Option<&SliceKey>,
    ) -> Result<(ProvingKey, SliceKey)> {
        let params = circuit.params();
        let name = Hasher::new("proving-key-file")
            .bytes(&srs.id().0.0)
            .bytes(std::any::type_name::<C>().as_bytes())
            .bytes(&serde_json::to_vec(&params)?)
            .bytes(env!("CARGO_PKG_VERSION").as_bytes())
            .digest();
        let path = self.folder.join("keys").join(format!("{name}.key"));
        let agrees = |key: &SliceKey| expected.is_none_or(|expected| expected.digest() == key.digest());
        if path.exists() {
            let read = files::read(&path, MAX_KEY_BYTES)
                .and_then(|bytes| Ok(ProvingKey::read::<C>(&mut &bytes[..], params.clone(), None)?));
            if let Ok(key) = read
                && let Ok(slice_key) = SliceKey::from_generated::<C>(key.vk(), &params)
                && agrees(&slice_key)
            {
                return Ok((key, slice_key));
            }
        }
        let key = ProvingKey::generate(&srs.params(), circuit)?;
        let slice_key = SliceKey::from_generated::<C>(key.vk(), &params)?;
        if !agrees(&slice_key) {
            return Err(Failure::new(
                Kind::Input,
                "the card's verifying key is not the one that its parameters determine in this version of \
                 lamina: publish the model again",
            ));
        }
        let mut bytes = vec![];
        key.write(&mut bytes)?;
        files::create_folder(&self.folder.join("keys"), Access::Public)?;
        files::sweep(&self.folder.join("keys"));
        files::write(&path, &bytes, Access::Public, Existing::Replace)?;
        Ok((key, slice_key))
    }
}

/// Identifier and size out of `ID-K.srs`.
pub fn srs_name(path: &Path) -> Option<(SrsId, u32)> {
    let name = path.file_name()?.to_str()?.strip_suffix(".srs")?;
    let (id, k) = name.split_once('-')?;
    let id = encoding::from_hex(id).and_then(|bytes| <[u8; 32]>::try_from(bytes).ok())?;
    Some((SrsId(Digest(id)), k.parse().ok()?))
}
