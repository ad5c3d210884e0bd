//! The logs of a version's containers, as one stream of lines.

use futures::{Stream, StreamExt, stream};
use skysail_proto::admin::LogLine;
use skysail_proto::error_code::ErrorCode;
use skysail_proto::ids::ModelId;
use tracing::debug;

use super::{AdminError, AdminService};

impl AdminService {
    /// The last `tail` lines of each container, each line with its replica, and if `follow`, those that
    /// come.
    pub async fn logs(
        &self,
        id: &ModelId,
        tail: usize,
        follow: bool,
    ) -> Result<impl Stream<Item = LogLine> + Send + 'static, AdminError> {
        let version = self.version(&*self.catalog()?, id)?;
        let Some(runtime) = &self.runtime else {
            let detail = "this frontend runs no containers: ask the one that does";
            return Err(AdminError::new(ErrorCode::Unavailable, detail));
        };
        let mut all = Vec::new();
        let mut failed = None;
        for container in version.containers {
            match runtime.logs(&container.container, tail, follow).await {
                Ok(lines) => {
                    let replica = container.replica;
                    all.push(
                        lines
                            .map(move |line| LogLine {
                                replica: replica.clone(),
                                line,
                            })
                            .boxed(),
                    );
                }
                // One that was just replaced is no reason to withhold the others.
                Err(error) => {
                    debug!(container = container.container, %error, "log not read");
                    failed = Some(error);
                }
            }
        }
        match failed {
            Some(error) if all.is_empty() => Err(AdminError::new(ErrorCode::Unavailable, error.to_string())),
            _ => Ok(stream::select_all(all).take_until(self.closing.clone().cancelled_owned())),
        }
    }
}
