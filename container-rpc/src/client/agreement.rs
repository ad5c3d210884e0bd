//! Which signature a container registers with: its environment's and its model's, which must not differ.

use skysail_proto::signature::Signature;

use super::ServeError;

/// The signature that the environment and the model agree on. Either may leave the tensors to the other to name.
pub(super) fn reached(declared: Signature, own: Option<Signature>) -> Result<Signature, ServeError> {
    let own = own.filter(Signature::is_declared);
    match own {
        None if declared.is_declared() => Ok(declared),
        None => Err(ServeError::Undeclared),
        Some(own) if own == declared => Ok(own),
        Some(own) if !declared.is_declared() && own.row_type().is_none() => Ok(own),
        Some(own) => Err(ServeError::Signature {
            own: Box::new(own),
            declared: Box::new(declared),
        }),
    }
}

#[cfg(test)]
mod tests {
    use skysail_proto::value::InputType;

    use super::*;

    fn tensors(input: &str) -> Signature {
        Signature::tensors([input.parse().unwrap()], []).unwrap()
    }

    #[test]
    fn what_one_leaves_open_the_other_says() {
        let (image, doubles) = (tensors("image:FP32[2]"), Signature::row(InputType::Doubles));
        for (declared, own, expected) in [
            (doubles.clone(), None, &doubles),
            (doubles.clone(), Some(doubles.clone()), &doubles),
            (image.clone(), None, &image),
            (image.clone(), Some(image.clone()), &image),
            (image.clone(), Some(Signature::undeclared()), &image),
            (Signature::undeclared(), Some(image.clone()), &image),
        ] {
            assert_eq!(reached(declared, own).unwrap(), *expected);
        }
    }

    #[test]
    fn a_difference_is_said_with_both() {
        let (image, doubles) = (tensors("image:FP32[2]"), Signature::row(InputType::Doubles));
        for (declared, own) in [
            (doubles.clone(), image.clone()),
            (image.clone(), doubles.clone()),
            (tensors("image:FP32[-1]"), image.clone()),
            (Signature::undeclared(), doubles.clone()),
            (image.clone().without_batch_dimension(), image.clone()),
        ] {
            let error = reached(declared.clone(), Some(own.clone()))
                .unwrap_err()
                .to_string();
            let both = [format!("`{own}`"), format!("`{declared}`")];
            assert!(both.iter().all(|part| error.contains(part)), "{error}");
        }
    }

    #[test]
    fn tensors_that_nobody_names_end_with_the_remedy() {
        let error = reached(Signature::undeclared(), None).unwrap_err().to_string();
        assert!(
            error.contains("set SKYSAIL_SIGNATURE") && error.contains("Model::signature"),
            "{error}"
        );
    }
}
