//! What only the cluster's own containers are to know, and how they are told: by files that are put into a
//! container before it starts. Arguments can be read by every user of the machine (`ps`), the environment and
//! mounts by who may look at containers, in logs of what was run too.
//!
//! They are drawn anew at each start, also on data that was kept: Redis keeps no password with its data.

use skysail_proto::ids::ClusterName;
use skysail_proto::labels;

/// Where everything is put.
const FOLDER: &str = "/skysail";

/// Options of the frontend, with the store's URL.
pub(super) const FRONTEND_FILE: &str = "/skysail/frontend.toml";

/// Options of Redis, with its password.
pub(super) const REDIS_FILE: &str = "/skysail/redis.conf";

/// The owner alone: the frontend's image runs as root.
const OWNERS: u32 = 0o400;

/// Everybody in the container: which user Redis runs as is its image's business, and nothing else runs there.
const EVERYBODYS: u32 = 0o444;

/// The cluster's secrets.
pub(super) struct Secrets {
    redis_password: String,
}

/// A file in a container.
pub(super) struct File {
    path: &'static str,
    mode: u32,
    content: String,
}

impl Secrets {
    /// Secrets that nobody knows yet.
    pub(super) fn fresh() -> Self {
        Self {
            redis_password: random_hex(),
        }
    }

    /// What Redis finds.
    pub(super) fn redis_files(&self) -> Vec<File> {
        vec![File {
            path: REDIS_FILE,
            mode: EVERYBODYS,
            content: format!("requirepass {}\n", self.redis_password),
        }]
    }

    /// What every frontend finds.
    pub(super) fn frontend_files(&self, cluster: &ClusterName) -> Vec<File> {
        let redis = labels::redis_container(cluster);
        let content = format!("store = \"redis://:{}@{redis}:6379/0\"\n", self.redis_password);
        vec![File {
            path: FRONTEND_FILE,
            mode: OWNERS,
            content,
        }]
    }
}

/// 32 random bytes, which need no quoting anywhere.
fn random_hex() -> String {
    let random = ring::rand::generate::<[u8; 32]>(&ring::rand::SystemRandom::new());
    let bytes = random
        .expect("the system has random numbers; this is a bug")
        .expose();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A tar of files, as the engine unpacks it at the container's root.
pub(super) fn archive(files: &[File]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    let folder = File {
        path: FOLDER,
        mode: 0o755,
        content: String::new(),
    };
    add(&mut archive, &folder, tar::EntryType::Directory);
    for file in files {
        add(&mut archive, file, tar::EntryType::Regular);
    }
    archive.into_inner().expect(IN_MEMORY)
}

const IN_MEMORY: &str = "memory takes all that is written; this is a bug";

fn add(archive: &mut tar::Builder<Vec<u8>>, file: &File, kind: tar::EntryType) {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(file.mode);
    header.set_size(file.content.len() as u64);
    let path = file.path.trim_start_matches('/');
    archive
        .append_data(&mut header, path, file.content.as_bytes())
        .expect(IN_MEMORY);
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn redis_and_frontends_are_told_one_password_that_each_start_draws() {
        let cluster = "blue".parse().unwrap();
        let (first, second) = (Secrets::fresh(), Secrets::fresh());
        let password = first.redis_password.clone();
        assert_eq!(password.len(), 64);
        assert_ne!(password, second.redis_password);
        assert_eq!(
            first.redis_files()[0].content,
            format!("requirepass {password}\n")
        );
        assert_eq!(
            first.frontend_files(&cluster)[0].content,
            format!("store = \"redis://:{password}@blue-redis:6379/0\"\n")
        );
    }

    #[test]
    fn an_archive_holds_the_files_below_the_root() {
        let secrets = Secrets::fresh();
        let written = archive(&secrets.redis_files());
        let mut archive = tar::Archive::new(&*written);
        let mut entries = archive.entries().unwrap().map(Result::unwrap);
        let folder = entries.next().unwrap();
        assert_eq!(folder.path().unwrap().to_str(), Some("skysail"));
        let mut file = entries.next().unwrap();
        assert_eq!(file.path().unwrap().to_str(), Some("skysail/redis.conf"));
        assert_eq!(file.header().mode().unwrap(), EVERYBODYS);
        let mut content = String::new();
        file.read_to_string(&mut content).unwrap();
        assert_eq!(content, secrets.redis_files()[0].content);
    }
}
