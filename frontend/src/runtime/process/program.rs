//! The program of a container: found, started in the calling thread, and what it is not when it cannot be.
//!
//! It is what it was when its version was first started, or it is not started: a name can come to mean another file.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::{env, fs, io};

use skysail_proto::deployment::{Artifact, ONNX_IMAGE};
use skysail_proto::ids::ModelId;
use skysail_proto::sha256::Sha256;
use tokio::process::{Child, Command};

use super::digests::{Content, NoDigest};
use super::spawner;
use crate::runtime::{ReplicaSpec, RuntimeError};

/// The frontend's variables that children inherit: what finds programs, libraries and a place for files.
/// Everything else, secrets included, they get only if the deployment says so.
const INHERITED: [&str; 6] = ["PATH", "HOME", "LANG", "LD_LIBRARY_PATH", "TMPDIR", "TZ"];

/// Where images are.
#[derive(Debug)]
pub(super) struct Programs {
    /// The folder of the frontend's own executable, which has that for ONNX files too.
    own_folder: PathBuf,
}

impl Default for Programs {
    fn default() -> Self {
        let own = env::current_exe().unwrap_or_default();
        Self::in_folder(own.parent().unwrap_or(Path::new("")))
    }
}

impl Programs {
    pub(super) fn in_folder(own_folder: &Path) -> Self {
        let own_folder = own_folder.to_owned();
        Self { own_folder }
    }

    /// Where an image is, or should be.
    pub(super) fn place_of(&self, image: &str) -> io::Result<PathBuf> {
        match image == ONNX_IMAGE {
            true => Ok(self.own_folder.join(ONNX_IMAGE)),
            false => std::path::absolute(image),
        }
    }

    /// The absolute path of an image, checked.
    pub(super) fn executable(&self, image: &str) -> Result<PathBuf, RuntimeError> {
        match self.place_of(image) {
            Ok(path) if image == ONNX_IMAGE && !path.exists() => Err(RuntimeError::Image(format!(
                "there is no executable `{}`, which serves ONNX files: put the `{ONNX_IMAGE}` of this Skysail beside \
                 the frontend's own executable, and check that the frontend's user may run it",
                path.display()
            ))),
            Ok(path) => executable(path),
            Err(_) => Err(RuntimeError::Image(
                "the image is empty: with the process runtime it is the path of an executable".into(),
            )),
        }
    }
}

/// Checks what is at a path: the kernel's own words for a wrong one help nobody.
fn executable(path: PathBuf) -> Result<PathBuf, RuntimeError> {
    let unusable = |problem: String| Err(RuntimeError::Image(problem));
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

/// What is wrong with an ONNX file that is not what it was when it was uploaded.
pub(super) fn no_onnx(sha256: &Sha256, problem: &str) -> String {
    format!(
        "artifact {sha256} {problem}: upload it to this frontend again, with PUT /api/v1/artifacts/{sha256} or by \
         deploying the file as another version (`skysail model deploy --onnx FILE`)"
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
        match Programs::default().executable(image) {
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
    fn the_program_for_onnx_files_is_beside_the_frontend_and_no_other_is() {
        let folder = tempfile::tempdir().unwrap();
        let programs = Programs::in_folder(folder.path());
        let path = folder.path().join(ONNX_IMAGE);
        let missing = programs.executable(ONNX_IMAGE).unwrap_err().to_string();
        assert!(missing.contains(path.to_str().unwrap()), "{missing}");
        assert!(
            missing.contains("beside the frontend's own executable"),
            "{missing}"
        );

        fs::write(&path, "#!/bin/sh\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(programs.executable(ONNX_IMAGE).unwrap(), path);
        let elsewhere = programs.executable("./skysail-onnx").unwrap_err().to_string();
        assert!(!elsewhere.contains(path.to_str().unwrap()), "{elsewhere}");

        let own = env::current_exe().unwrap();
        let beside = Programs::default().place_of(ONNX_IMAGE).unwrap();
        assert_eq!(beside.parent(), own.parent());
    }

    #[test]
    fn a_file_of_text_is_no_program() {
        let error = not_launched(Path::new("/model"), &io::Error::from(rustix::io::Errno::NOEXEC));
        assert!(matches!(error, RuntimeError::Image(problem) if problem.contains("#!")));
    }
}
