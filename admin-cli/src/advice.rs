//! From "not found" to what exists.
//!
//! The admin API says what is missing; what was probably meant is worth a second request, because the
//! person is still there to read it.

use std::fmt::Display;

use skysail_proto::ids::{ApplicationName, ModelId, ModelName};

use crate::arguments::ModelTarget;
use crate::client::{AdminClient, ClientError};
use crate::error::Error;

/// Passes a result on; where it is "not found", says which applications exist if `name` is not among them.
pub(crate) async fn about_application<T>(
    admin: &AdminClient,
    name: &ApplicationName,
    result: Result<T, ClientError>,
) -> Result<T, Error> {
    match result {
        Err(error) if error.is_not_found() => match missing_application(admin, name).await {
            Some(missing) => Err(missing),
            None => Err(error.into()),
        },
        other => Ok(other?),
    }
}

/// The same for a model, or for one version of it.
pub(crate) async fn about_model<T>(
    admin: &AdminClient,
    target: &ModelTarget,
    result: Result<T, ClientError>,
) -> Result<T, Error> {
    match result {
        Err(error) if error.is_not_found() => match missing_model(admin, target).await {
            Some(missing) => Err(missing),
            None => Err(error.into()),
        },
        other => Ok(other?),
    }
}

/// The same where both are named; the application is looked at first. To the server a link to what is not
/// there is a conflict.
pub(crate) async fn about_link<T>(
    admin: &AdminClient,
    application: &ApplicationName,
    model: &ModelName,
    result: Result<T, ClientError>,
) -> Result<T, Error> {
    let error = match result {
        Err(error) if error.is_not_found() || error.is_conflict() => error,
        other => return Ok(other?),
    };
    if let Some(missing) = missing_application(admin, application).await {
        return Err(missing);
    }
    let target = ModelTarget {
        name: model.clone(),
        version: None,
    };
    Err(missing_model(admin, &target).await.unwrap_or(error.into()))
}

async fn missing_application(admin: &AdminClient, name: &ApplicationName) -> Option<Error> {
    let applications = admin.applications().await.ok()?.read().ok()?;
    let known: Vec<_> = applications.into_iter().map(|known| known.name).collect();
    (!known.contains(name)).then(|| Error::UnknownApplication {
        name: name.clone(),
        known,
    })
}

async fn missing_model(admin: &AdminClient, target: &ModelTarget) -> Option<Error> {
    let models = admin.models().await.ok()?.read().ok()?;
    let Some(model) = models.iter().find(|known| known.name == target.name) else {
        return Some(Error::UnknownModel {
            name: target.name.clone(),
            known: models.into_iter().map(|known| known.name).collect(),
        });
    };
    let version = target.version.clone()?;
    let known: Vec<_> = model.versions.iter().map(|known| known.version.clone()).collect();
    (!known.contains(&version)).then(|| Error::UnknownVersion {
        id: ModelId::new(target.name.clone(), version),
        known,
    })
}

/// Names in a row.
pub(crate) fn listed(names: &[impl Display]) -> String {
    let names: Vec<_> = names.iter().map(ToString::to_string).collect();
    names.join(", ")
}

/// The known name that `given` was probably meant to be: at most a third of its letters differ.
pub(crate) fn closest<'a>(given: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let most = (given.len() / 3).max(1);
    known
        .map(|name| (edits(given, name), name))
        .filter(|&(edits, _)| edits <= most)
        .min()
        .map(|(_, name)| name)
}

/// Letters to insert, delete, replace or swap with their neighbour to make one word of the other (the
/// optimal string alignment distance).
fn edits(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=other.len()).collect();
    let mut left = None;
    for (row, letter) in one.chars().enumerate() {
        let mut line = vec![row + 1];
        for (column, &wanted) in other.iter().enumerate() {
            let replaced = last[column] + usize::from(letter != wanted);
            let mut fewest = replaced.min(last[column + 1] + 1).min(line[column] + 1);
            let swapped = column > 0 && left == Some(wanted) && other[column - 1] == letter;
            if swapped {
                fewest = fewest.min(before_last[column - 1] + 1);
            }
            line.push(fewest);
        }
        before_last = std::mem::replace(&mut last, line);
        left = Some(letter);
    }
    last[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_are_counted() {
        for (one, other, expected) in [
            ("iris", "iris", 0),
            ("irsi", "iris", 1),
            ("iris", "", 4),
            ("", "iris", 4),
            ("iri", "iris", 1),
            ("mnist", "digits", 4),
        ] {
            assert_eq!(edits(one, other), expected, "{one} {other}");
        }
    }

    #[test]
    fn only_a_close_name_is_suggested() {
        let known = ["iris", "iris-large", "digits"];
        assert_eq!(closest("irs", known.into_iter()), Some("iris"));
        assert_eq!(closest("iris-lagre", known.into_iter()), Some("iris-large"));
        assert_eq!(closest("weather", known.into_iter()), None);
        assert_eq!(closest("x", std::iter::empty()), None);
    }
}
