//! Artifacts, as the admin API takes and shows them, and whether a version's are here.

use skysail_proto::admin::{NewVersion, StoredArtifact};
use skysail_proto::error_code::ErrorCode;
use skysail_proto::sha256::Sha256;

use super::{AdminError, AdminService};
use crate::artifacts::{ArtifactError, Received};
use crate::http::{Pieces, RequestBody};

impl From<ArtifactError> for AdminError {
    fn from(error: ArtifactError) -> Self {
        let code = match error {
            ArtifactError::Body(error) => return error.into(),
            ArtifactError::TooLarge(_) => ErrorCode::TooLarge,
            ArtifactError::OtherContent { .. } => ErrorCode::InvalidArgument,
            ArtifactError::NoFolder | ArtifactError::DiskFull(_) | ArtifactError::Unusable { .. } => {
                ErrorCode::Unavailable
            }
        };
        Self::new(code, error.to_string())
    }
}

impl AdminService {
    /// An artifact of this frontend.
    pub(super) async fn artifact(&self, sha256: Sha256) -> Result<StoredArtifact, AdminError> {
        let found = self.artifacts.ask(sha256).await?;
        found.ok_or_else(|| AdminError::new(ErrorCode::NotFound, not_here(sha256)))
    }

    /// Keeps an artifact on this frontend.
    pub(super) async fn keep_artifact(
        &self,
        sha256: Sha256,
        pieces: Pieces<impl RequestBody>,
    ) -> Result<Received, AdminError> {
        Ok(self.artifacts.receive(sha256, pieces).await?)
    }

    /// A version is made of files that are here: its containers could not start otherwise.
    pub(super) async fn check_artifacts(&self, new: &NewVersion) -> Result<(), AdminError> {
        let Some(file) = new.deployment.as_ref().and_then(|deployment| deployment.onnx) else {
            return Ok(());
        };
        match self.artifacts.ask(file.sha256).await? {
            Some(_) => Ok(()),
            None => Err(AdminError::new(ErrorCode::InvalidArgument, not_here(file.sha256))),
        }
    }
}

fn not_here(sha256: Sha256) -> String {
    format!(
        "artifact {sha256} is not on this frontend: upload it with PUT /api/v1/artifacts/{sha256}, as \
         `skysail model deploy --onnx FILE` does"
    )
}
