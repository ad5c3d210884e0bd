//! The program of a container: found, started in the calling thread, and what it is not when it cannot be.
//!
//! It is what it was when its version was first started, or it is not started: a name can come to mean another file.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::{env, fs, io};

use skysail_proto::deployment::Artifact;
use skysail_proto::ids::ModelId;
use tokio::process::{Child, Command};

use super::digests::{Content, NoDigest};
use super::spawner;
use crate::runtime::{ReplicaSpec, RuntimeError};

/// The frontend's variables that children inherit: what finds programs, libraries and a place for files.
/// Everything else, secrets included, they get only if the deployment says so.
const INHERITED: [&str; 6] = ["PATH", "HOME", "LANG", "LD_LIBRARY_PATH", "TMPDIR", "TZ"];

/// The absolute path of an image, checked: the kernel's own words for a wrong one help nobody.
pub(super) fn executable(image: &str) -> Result<PathBuf, RuntimeError> {
    let unusable = |problem: String| Err(RuntimeError::Image(problem));
    let Ok(path) = std::path::absolute(image) else {
        return unusable(
            "the image is empty: with the process runtime it is the path of an executable".into(),
        );
    };
    let shown = path.display();
    match fs::metadata(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => unusable(format!(
            "there is no executable `{shown}`: check the image's path; with the process runtime it is a file \
             on the frontend's machine, and a relative path starts at the frontend's working directory"
        )),
        Err(error) => unusable(format!("the executable `{shown}` cannot be used: {error}")),
        Ok(found) if !found.is_file() => unusable(format!(
            "`{shown}` is not a file: with the process runtime the image is the path of an executable"
        )),
        Ok(found) if found.permissions().mode() & 0o111 == 0 => unusable(format!(
            "`{shown}` is not executable: if it is a program, `chmod +x` makes it so"
        )),
        Ok(_) => Ok(path),
    }
}

/// Whether what was started is what was read. A file is executed by its name, so that the process has it too; so
/// one that was renamed over it in between is noticed only here, after a moment in which it ran.
///
/// What remains: a script is read by its interpreter when that likes to.
pub(super) fn runs_content(child: &Child, program: &Path, content: &Content) -> bool {
    // Of a script this is the interpreter, and of a child that ended already nothing.
    let executed = child
        .id()
        .is_some_and(|pid| content.is_in(Path::new(&format!("/proc/{pid}/exe"))));
    executed || content.is_in(program)
}

pub(super) fn refuse_image_id(spec: &ReplicaSpec) -> Result<(), RuntimeError> {
    match &spec.image_id {
        None => Ok(()),
        Some(id) => Err(RuntimeError::Image(format!(
            "the process runtime runs executables, and they have no image id ({id}): deploy without one, or use the \
             docker runtime"
        ))),
    }
}

pub(super) fn replaced(artifact: &Artifact, found: &Content, model: &ModelId) -> String {
    format!(
        "`{}` is not what `{model}` was first started with: its SHA-256 was {}, and is {} now. A version is never \
         changed: deploy a new version to run it, or put the old file back",
        artifact.path,
        short(&artifact.sha256),
        short(&found.sha256),
    )
}

/// As much of a digest as a person compares.
fn short(sha256: &str) -> &str {
    sha256.get(..12).unwrap_or(sha256)
}

pub(super) fn no_digest(path: &str, error: &NoDigest) -> RuntimeError {
    match error {
        NoDigest::Changing => {
            RuntimeError::Container(format!("`{path}` is being written just now: it is tried again"))
        }
        NoDigest::Unreadable(error) if error.kind() == io::ErrorKind::NotFound => {
            RuntimeError::Image(format!(
                "`{path}`, which the version was deployed with, is not there any more: put it back, or deploy a new version"
            ))
        }
        NoDigest::Unreadable(error) => RuntimeError::Image(format!(
            "`{path}` cannot be read, so that it is not known what would run: {error}; the frontend's user must be \
             allowed to read it"
        )),
    }
}

/// Starts the child in the calling thread, with which it will die.
pub(super) fn launch(program: &Path, spec: &ReplicaSpec) -> Result<Child, RuntimeError> {
    let inherited = INHERITED
        .iter()
        .filter_map(|name| Some((name, env::var_os(name)?)));
    let mut command = Command::new(program);
    command
        .env_clear()
        .envs(inherited)
        .envs(&spec.env)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    spawner::die_with_this_thread(&mut command);
    command.spawn().map_err(|error| not_launched(program, &error))
}

fn not_launched(program: &Path, error: &io::Error) -> RuntimeError {
    use rustix::io::Errno;

    let shown = program.display();
    match Errno::from_io_error(error) {
        Some(Errno::NOEXEC) => RuntimeError::Image(format!(
            "`{shown}` is not a program this machine can run: it is neither a binary for it nor a script \
             that begins with `#!`"
        )),
        Some(Errno::NOENT) => RuntimeError::Image(format!(
            "`{shown}` cannot be run: the interpreter or loader that it names is not on this machine"
        )),
        Some(Errno::ACCESS | Errno::PERM) => RuntimeError::Image(format!(
            "the frontend's user may not run `{shown}`: check its owner and permissions, and those of its folders"
        )),
        _ => RuntimeError::Container(format!("`{shown}` could not be started: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(image: &str) -> String {
        match executable(image) {
            Err(RuntimeError::Image(problem)) => problem,
            other => panic!("{image}: {other:?}"),
        }
    }

    #[test]
    fn an_image_that_cannot_be_run_is_refused_with_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("model");
        fs::write(&file, "no program").unwrap();
        let of = |path: &Path| refused(path.to_str().unwrap());
        assert!(of(&folder.path().join("missing")).contains("check the image's path"));
        assert!(of(folder.path()).contains("is not a file"));
        assert!(of(&file).contains("chmod +x"));
        assert!(refused("").contains("path of an executable"));
    }

    #[test]
    fn a_relative_image_starts_at_the_working_directory() {
        let here = env::current_dir().unwrap();
        let problem = refused("no/such/model");
        assert!(
            problem.contains(&format!("`{}/no/such/model`", here.display())),
            "{problem}"
        );
    }

    #[test]
    fn a_file_of_text_is_no_program() {
        let error = not_launched(Path::new("/model"), &io::Error::from(rustix::io::Errno::NOEXEC));
        assert!(matches!(error, RuntimeError::Image(problem) if problem.contains("#!")));
    }
}
