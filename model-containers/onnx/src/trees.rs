//! Ensembles of decision trees: random forests, gradient boosting.
//!
//! tract has `TreeEnsembleClassifier`, but it goes over all leaves of the ensemble for each tree and row, it trusts the
//! file's numbers of nodes and classes, and it has no `TreeEnsembleRegressor`. So both are here.
//!
//! An ensemble is checked when it is read: each tree has a root, every node is reached by one way, and every vote is for
//! a class that there is. Sums are made in binary64.

use std::collections::HashMap;

use tract_onnx::model::{OnnxOpRegister, ParsingContext};
use tract_onnx::pb::{AttributeProto, NodeProto};
use tract_onnx::tract_hir::internal::*;

pub(crate) const CLASSIFIER: &str = "TreeEnsembleClassifier";
pub(crate) const REGRESSOR: &str = "TreeEnsembleRegressor";

/// Puts both in the place of tract's.
pub(crate) fn register(operators: &mut OnnxOpRegister) {
    operators.insert(CLASSIFIER, classifier);
    operators.insert(REGRESSOR, regressor);
}

/// A node: a question, or a leaf with its votes.
#[derive(Clone, Copy, Debug)]
enum Node {
    Question {
        feature: usize,
        comparison: Comparison,
        value: f32,
        /// Where a missing number (NaN) goes: as if the answer were yes.
        missing_is_yes: bool,
        yes: usize,
        no: usize,
    },
    /// The votes from `begin` to before `end`.
    Leaf { begin: usize, end: usize },
}

#[derive(Clone, Copy, Debug)]
enum Comparison {
    LessOrEqual,
    Less,
    GreaterOrEqual,
    Greater,
    Equal,
    NotEqual,
}

/// What a leaf adds to a target: a class, or a number to be predicted.
#[derive(Clone, Copy, Debug)]
struct Vote {
    target: usize,
    weight: f64,
}

#[derive(Debug)]
struct Trees {
    roots: Vec<usize>,
    nodes: Vec<Node>,
    votes: Vec<Vote>,
    /// What each target begins with.
    base: Vec<f64>,
    /// The least number of features that a row needs.
    features: usize,
}

/// What becomes of the sums of a row.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Transform {
    None,
    Softmax,
    Logistic,
}

#[derive(Debug)]
enum Task {
    Classify(Classes),
    /// Predicts numbers; each sum is divided by this.
    Regress {
        divisor: f64,
    },
}

#[derive(Debug)]
struct Classes {
    labels: Vec<i64>,
    /// All votes are for one of two classes: the sum alone decides which, beyond this threshold.
    of_two: Option<f64>,
}

#[derive(Debug)]
struct Ensemble {
    trees: Trees,
    transform: Transform,
    task: Task,
}

/// The operator. Cloning shares the trees, and only clones are equal.
#[derive(Clone, Debug)]
struct EnsembleOp(Arc<Ensemble>);

impl PartialEq for EnsembleOp {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for EnsembleOp {}

fn classifier(_: &ParsingContext<'_>, node: &NodeProto) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    let attributes = Attributes(&node.attribute);
    let labels = attributes.integers("classlabels_int64s")?.to_vec();
    let trees = Trees::read(attributes, "class", labels.len())?;
    let of_two = of_two(&trees, labels.len());
    op(Ensemble {
        transform: attributes.transform()?,
        trees,
        task: Task::Classify(Classes { labels, of_two }),
    })
}

fn regressor(_: &ParsingContext<'_>, node: &NodeProto) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    let attributes = Attributes(&node.attribute);
    let targets = attributes.find("n_targets").map_or(1, |attribute| attribute.i);
    let trees = Trees::read(attributes, "target", usize::try_from(targets)?)?;
    let divisor = match attributes.text("aggregate_function", "SUM") {
        "SUM" => 1.0,
        "AVERAGE" => trees.roots.len() as f64,
        other => bail!("aggregate_function {other} is not supported; SUM and AVERAGE are"),
    };
    op(Ensemble {
        transform: attributes.transform()?,
        trees,
        task: Task::Regress { divisor },
    })
}

fn op(ensemble: Ensemble) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    Ok((expand(EnsembleOp(Arc::new(ensemble))), Vec::new()))
}

/// Exporters of two classes may write votes for one of them only. As ONNX Runtime has it, the other one has the rest up
/// to 1 if all votes are positive, as probabilities are, and the opposite otherwise.
fn of_two(trees: &Trees, classes: usize) -> Option<f64> {
    let first = trees.votes.first()?.target;
    let one_sided = classes == 2 && trees.votes.iter().all(|vote| vote.target == first);
    let positive = trees.votes.iter().all(|vote| vote.weight >= 0.0);
    one_sided.then_some(if positive { 0.5 } else { 0.0 })
}

impl Trees {
    fn read(attributes: Attributes<'_>, votes: &str, targets: usize) -> TractResult<Self> {
        ensure!(targets > 0, "it has no classes or targets");
        let vote = |part: &str| format!("{votes}_{part}");
        let mut by_leaf: HashMap<(i64, i64), Vec<Vote>> = HashMap::new();
        let trees = attributes.integers(&vote("treeids"))?;
        let leaves = as_long(
            "nodeids of votes",
            attributes.integers(&vote("nodeids"))?,
            trees.len(),
        )?;
        let ids = as_long(
            "targets of votes",
            attributes.integers(&vote("ids"))?,
            trees.len(),
        )?;
        let weights = as_long("weights", attributes.numbers(&vote("weights"))?, trees.len())?;
        for place in 0..trees.len() {
            let target = usize::try_from(ids[place])
                .ok()
                .filter(|&target| target < targets);
            let target = target.with_context(|| format!("a vote is for {}, of {targets}", ids[place]))?;
            let weight = f64::from(weights[place]);
            by_leaf
                .entry((trees[place], leaves[place]))
                .or_default()
                .push(Vote { target, weight });
        }
        let read = Self {
            roots: Vec::new(),
            nodes: Vec::new(),
            votes: Vec::new(),
            base: base(attributes, targets)?,
            features: 0,
        };
        read.with_nodes(attributes, &by_leaf)
    }

    fn with_nodes(
        mut self,
        attributes: Attributes<'_>,
        by_leaf: &HashMap<(i64, i64), Vec<Vote>>,
    ) -> TractResult<Self> {
        let trees = attributes.integers("nodes_treeids")?;
        let count = trees.len();
        let integers = |name: &str| as_long(name, attributes.integers(name)?, count);
        let (ids, features) = (integers("nodes_nodeids")?, integers("nodes_featureids")?);
        let (yes, no) = (integers("nodes_truenodeids")?, integers("nodes_falsenodeids")?);
        let values = as_long("nodes_values", attributes.numbers("nodes_values")?, count)?;
        let modes = attributes
            .find("nodes_modes")
            .map(|attribute| attribute.strings.as_slice())
            .unwrap_or_default();
        let modes = as_long("nodes_modes", modes, count)?;
        let missing = attributes
            .find("nodes_missing_value_tracks_true")
            .map(|attribute| attribute.ints.as_slice());
        let places: HashMap<_, _> = (0..count)
            .map(|place| ((trees[place], ids[place]), place))
            .collect();
        ensure!(
            places.len() == count,
            "two nodes of one tree have the same number"
        );
        for place in 0..count {
            let node = match comparison(&modes[place])? {
                None => {
                    let begin = self.votes.len();
                    self.votes
                        .extend(by_leaf.get(&(trees[place], ids[place])).into_iter().flatten());
                    let end = self.votes.len();
                    Node::Leaf { begin, end }
                }
                Some(comparison) => {
                    let child = |id: i64| {
                        let child = places.get(&(trees[place], id)).copied();
                        child.with_context(|| format!("tree {} has no node {id}", trees[place]))
                    };
                    let feature = usize::try_from(features[place])?;
                    self.features = self.features.max(feature + 1);
                    Node::Question {
                        feature,
                        comparison,
                        value: values[place],
                        missing_is_yes: missing
                            .and_then(|missing| missing.get(place))
                            .is_some_and(|&yes| yes != 0),
                        yes: child(yes[place])?,
                        no: child(no[place])?,
                    }
                }
            };
            self.nodes.push(node);
        }
        self.find_roots(trees)?;
        Ok(self)
    }

    /// Finds the node of each tree that is no other's child, and checks that every node is reached from there by one way:
    /// then nothing goes round in circles.
    fn find_roots(&mut self, trees: &[i64]) -> TractResult<()> {
        let mut is_child = vec![false; self.nodes.len()];
        for node in &self.nodes {
            let Node::Question { yes, no, .. } = node else {
                continue;
            };
            for child in [*yes, *no] {
                ensure!(
                    !std::mem::replace(&mut is_child[child], true),
                    "a node is reached by two ways"
                );
            }
        }
        self.roots = (0..self.nodes.len()).filter(|&node| !is_child[node]).collect();
        let mut of_roots: Vec<_> = self.roots.iter().map(|&root| trees[root]).collect();
        let mut of_nodes = trees.to_vec();
        of_roots.sort_unstable();
        of_nodes.sort_unstable();
        of_nodes.dedup();
        ensure!(of_roots == of_nodes, "a tree has no root, or several");
        ensure!(
            self.reached() == self.nodes.len(),
            "a node is not reached from its tree's root"
        );
        Ok(())
    }

    /// How many nodes are reached from the roots, if each is reached by one way at most.
    fn reached(&self) -> usize {
        let mut reached = self.roots.clone();
        let mut next = 0;
        while let Some(&node) = reached.get(next) {
            if let Node::Question { yes, no, .. } = self.nodes[node] {
                reached.extend([yes, no]);
            }
            next += 1;
        }
        next
    }

    /// The sums of a row, which has at least as many numbers as there are features.
    fn sum(&self, row: &[f32], sums: &mut [f64]) {
        sums.copy_from_slice(&self.base);
        for &root in &self.roots {
            let mut node = self.nodes[root];
            let votes = loop {
                match node {
                    Node::Leaf { begin, end } => break begin..end,
                    Node::Question { yes, no, .. } => {
                        node = self.nodes[if node.is_yes(row) { yes } else { no }]
                    }
                }
            };
            for vote in &self.votes[votes] {
                sums[vote.target] += vote.weight;
            }
        }
    }
}

impl Node {
    fn is_yes(self, row: &[f32]) -> bool {
        let Self::Question {
            feature,
            comparison,
            value,
            missing_is_yes,
            ..
        } = self
        else {
            return false;
        };
        let number = row[feature];
        if number.is_nan() {
            return missing_is_yes;
        }
        match comparison {
            Comparison::LessOrEqual => number <= value,
            Comparison::Less => number < value,
            Comparison::GreaterOrEqual => number >= value,
            Comparison::Greater => number > value,
            Comparison::Equal => number == value,
            Comparison::NotEqual => number != value,
        }
    }
}

/// What the targets begin with; one number is for the only target, or for the second of two classes.
fn base(attributes: Attributes<'_>, targets: usize) -> TractResult<Vec<f64>> {
    let given = attributes
        .find("base_values")
        .map(|attribute| attribute.floats.as_slice())
        .unwrap_or_default();
    let mut base = vec![0.0; targets];
    ensure!(
        given.len() <= targets,
        "it has {} base values for {targets} classes or targets",
        given.len()
    );
    let first = targets - given.len();
    ensure!(
        given.is_empty() || first <= 1,
        "it has {} base values for {targets} classes or targets",
        given.len()
    );
    for (base, given) in base[first..].iter_mut().zip(given) {
        *base = f64::from(*given);
    }
    Ok(base)
}

fn comparison(mode: &[u8]) -> TractResult<Option<Comparison>> {
    Ok(Some(match mode {
        b"LEAF" => return Ok(None),
        b"BRANCH_LEQ" => Comparison::LessOrEqual,
        b"BRANCH_LT" => Comparison::Less,
        b"BRANCH_GTE" => Comparison::GreaterOrEqual,
        b"BRANCH_GT" => Comparison::Greater,
        b"BRANCH_EQ" => Comparison::Equal,
        b"BRANCH_NEQ" => Comparison::NotEqual,
        other => bail!(
            "nodes of mode {} are not supported",
            String::from_utf8_lossy(other)
        ),
    }))
}

impl Ensemble {
    /// The label of a row, if it is one of classes; its sums become what the second output holds.
    fn conclude(&self, sums: &mut [f64]) -> i64 {
        let label = match &self.task {
            Task::Regress { divisor } => {
                sums.iter_mut().for_each(|sum| *sum /= divisor);
                0
            }
            Task::Classify(classes) => classes.label(sums, self.transform),
        };
        match self.transform {
            Transform::None => {}
            Transform::Logistic => sums.iter_mut().for_each(|sum| *sum = 1.0 / (1.0 + (-*sum).exp())),
            Transform::Softmax => softmax(sums),
        }
        label
    }
}

impl Classes {
    fn label(&self, sums: &mut [f64], transform: Transform) -> i64 {
        let Some(threshold) = self.of_two else {
            // The first of the largest, in binary32: what are equals to the library may differ in the last bits here.
            let rounded = |place: usize| sums[place] as f32;
            let largest = (0..sums.len())
                .rev()
                .max_by(|&a, &b| rounded(a).total_cmp(&rounded(b)));
            return self.labels[largest.unwrap_or_default()];
        };
        // One of the two is 0: nothing was voted for it.
        let sum = sums[0] + sums[1];
        let rest = if threshold > 0.0 && transform == Transform::None {
            1.0 - sum
        } else {
            -sum
        };
        sums.copy_from_slice(&[rest, sum]);
        self.labels[usize::from(sum > threshold)]
    }
}

fn softmax(sums: &mut [f64]) {
    let largest = sums.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    sums.iter_mut().for_each(|sum| *sum = (*sum - largest).exp());
    let total: f64 = sums.iter().sum();
    sums.iter_mut().for_each(|sum| *sum /= total);
}

impl Expansion for EnsembleOp {
    fn name(&self) -> StaticName {
        Op::name(self)
    }

    fn nboutputs(&self) -> TractResult<usize> {
        Ok(if self.classifies() { 2 } else { 1 })
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        solver: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        check_input_arity(inputs, 1)?;
        check_output_arity(outputs, self.nboutputs()?)?;
        let (labels, sums) = outputs.split_at(outputs.len() - 1);
        if let [labels] = labels {
            solver.equals(&labels.datum_type, DatumType::I64)?;
            solver.equals(&labels.rank, 1)?;
            solver.equals(&labels.shape[0], &inputs[0].shape[0])?;
        }
        solver.equals(&sums[0].datum_type, DatumType::F32)?;
        solver.equals(&sums[0].rank, 2)?;
        solver.equals(&sums[0].shape[0], &inputs[0].shape[0])?;
        solver.equals(&sums[0].shape[1], self.0.trees.base.len().to_dim())
    }

    fn wire(&self, prefix: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        model.wire_node(prefix, self.clone(), inputs)
    }
}

impl EnsembleOp {
    fn classifies(&self) -> bool {
        matches!(self.0.task, Task::Classify(_))
    }
}

impl Op for EnsembleOp {
    fn name(&self) -> StaticName {
        if self.classifies() {
            CLASSIFIER.into()
        } else {
            REGRESSOR.into()
        }
    }

    op_as_typed_op!();
}

impl EvalOp for EnsembleOp {
    op_out_of_plan!();

    fn eval(&self, _context: &EvalContext<'_>, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let input = inputs[0].cast_to::<f32>()?;
        let &[rows, features] = input.shape() else {
            bail!(
                "an ensemble of trees takes rows of numbers, not a tensor of shape {:?}",
                input.shape()
            );
        };
        let trees = &self.0.trees;
        ensure!(
            features >= trees.features,
            "a row has {features} numbers; the trees need {}",
            trees.features
        );
        let view = input.try_as_plain_ram()?;
        let numbers = view.as_slice::<f32>()?;
        let mut labels = Vec::with_capacity(rows);
        let mut answers = Vec::with_capacity(rows * trees.base.len());
        let mut sums = vec![0.0; trees.base.len()];
        for row in 0..rows {
            trees.sum(&numbers[row * features..][..features], &mut sums);
            labels.push(self.0.conclude(&mut sums));
            answers.extend(sums.iter().map(|&sum| sum as f32));
        }
        let answers = Tensor::from_shape(&[rows, sums.len()], &answers)?.into();
        Ok(if self.classifies() {
            tvec!(tensor1(&labels).into(), answers)
        } else {
            tvec!(answers)
        })
    }
}

impl TypedOp for EnsembleOp {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        ensure!(
            inputs[0].rank() == 2,
            "an ensemble of trees takes rows of numbers"
        );
        let rows = inputs[0].shape[0].clone();
        let sums = f32::fact([rows.clone(), self.0.trees.base.len().to_dim()]);
        Ok(if self.classifies() {
            tvec!(i64::fact([rows]), sums)
        } else {
            tvec!(sums)
        })
    }

    as_op!();
}

/// Checks that a list is as long as the others beside it.
fn as_long<'a, T>(name: &str, list: &'a [T], length: usize) -> TractResult<&'a [T]> {
    ensure!(
        list.len() == length,
        "it has {} {name}, and should have {length}",
        list.len()
    );
    Ok(list)
}

/// The attributes of a node.
#[derive(Clone, Copy)]
struct Attributes<'a>(&'a [AttributeProto]);

impl<'a> Attributes<'a> {
    fn find(self, name: &str) -> Option<&'a AttributeProto> {
        self.0.iter().find(|attribute| attribute.name == name)
    }

    fn integers(self, name: &str) -> TractResult<&'a [i64]> {
        let found = self
            .find(name)
            .with_context(|| format!("it has no attribute {name}"))?;
        Ok(&found.ints)
    }

    fn numbers(self, name: &str) -> TractResult<&'a [f32]> {
        if self.find(&format!("{name}_as_tensor")).is_some() {
            bail!("its {name} are in double precision: export the model with single precision");
        }
        let found = self
            .find(name)
            .with_context(|| format!("it has no attribute {name}"))?;
        Ok(&found.floats)
    }

    fn text(self, name: &str, default: &'a str) -> &'a str {
        self.find(name)
            .and_then(|attribute| std::str::from_utf8(&attribute.s).ok())
            .unwrap_or(default)
    }

    fn transform(self) -> TractResult<Transform> {
        Ok(match self.text("post_transform", "NONE") {
            "NONE" => Transform::None,
            "SOFTMAX" => Transform::Softmax,
            "LOGISTIC" => Transform::Logistic,
            other => bail!("post_transform {other} is not supported; NONE, SOFTMAX and LOGISTIC are"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn integers(name: &str, ints: &[i64]) -> AttributeProto {
        AttributeProto {
            name: name.to_owned(),
            ints: ints.to_vec(),
            ..AttributeProto::default()
        }
    }

    fn numbers(name: &str, floats: &[f32]) -> AttributeProto {
        AttributeProto {
            name: name.to_owned(),
            floats: floats.to_vec(),
            ..AttributeProto::default()
        }
    }

    /// One question (feature 1 at most 0.5?) and two leaves, which vote for the classes 0 and 2.
    fn stump() -> Vec<AttributeProto> {
        vec![
            integers("nodes_treeids", &[0, 0, 0]),
            integers("nodes_nodeids", &[0, 1, 2]),
            integers("nodes_featureids", &[1, 0, 0]),
            numbers("nodes_values", &[0.5, 0.0, 0.0]),
            integers("nodes_truenodeids", &[1, 0, 0]),
            integers("nodes_falsenodeids", &[2, 0, 0]),
            AttributeProto {
                name: "nodes_modes".to_owned(),
                strings: [&b"BRANCH_LEQ"[..], b"LEAF", b"LEAF"]
                    .map(<[u8]>::to_vec)
                    .to_vec(),
                ..AttributeProto::default()
            },
            integers("class_treeids", &[0, 0]),
            integers("class_nodeids", &[1, 2]),
            integers("class_ids", &[0, 2]),
            numbers("class_weights", &[1.0, 0.25]),
        ]
    }

    fn read(attributes: &[AttributeProto]) -> Result<Trees, String> {
        Trees::read(Attributes(attributes), "class", 3).map_err(|error| error.to_string())
    }

    fn with(changed: AttributeProto) -> Vec<AttributeProto> {
        let mut attributes = stump();
        let known = attributes.iter_mut().find(|known| known.name == changed.name);
        *known.unwrap() = changed;
        attributes
    }

    #[test]
    fn a_row_goes_down_to_a_leaf_and_gets_its_votes() {
        let trees = read(&stump()).unwrap();
        let sums = |number: f32| {
            let mut sums = [0.0; 3];
            trees.sum(&[9.0, number], &mut sums);
            sums
        };
        assert_eq!(sums(0.5), [1.0, 0.0, 0.0]);
        assert_eq!(sums(0.6), [0.0, 0.0, 0.25]);
        assert_eq!(
            sums(f32::NAN),
            [0.0, 0.0, 0.25],
            "a missing number is a no unless the file says otherwise"
        );
        assert_eq!(trees.features, 2);
    }

    #[test]
    fn trees_that_are_none_are_refused() {
        for (changed, words) in [
            (integers("nodes_falsenodeids", &[7, 0, 0]), "no node 7"),
            (integers("nodes_falsenodeids", &[1, 0, 0]), "by two ways"),
            (integers("nodes_falsenodeids", &[0, 0, 0]), "is not reached"),
            (integers("nodes_treeids", &[0, 0, 1]), "tree 0 has no node 2"),
            (integers("nodes_nodeids", &[0, 1, 1]), "the same number"),
            (integers("nodes_featureids", &[-1, 0, 0]), ""),
            (integers("nodes_truenodeids", &[1]), "it has 1 nodes_truenodeids"),
            (integers("class_ids", &[0, 3]), "a vote is for 3, of 3"),
            (integers("class_nodeids", &[1]), "should have 2"),
        ] {
            let error = read(&with(changed)).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn the_first_of_equal_classes_is_the_label() {
        let classes = Classes {
            labels: vec![5, 6, 7],
            of_two: None,
        };
        assert_eq!(classes.label(&mut [0.2, 0.4, 0.4 + 1e-12], Transform::None), 6);
    }

    #[test]
    fn of_two_classes_with_votes_for_one_the_other_has_the_rest() {
        let label = |threshold, sum, transform| {
            let classes = Classes {
                labels: vec![0, 1],
                of_two: Some(threshold),
            };
            let mut sums = [sum, 0.0];
            (classes.label(&mut sums, transform), sums)
        };
        assert_eq!(label(0.5, 0.75, Transform::None), (1, [0.25, 0.75]));
        assert_eq!(label(0.5, 0.25, Transform::None), (0, [0.75, 0.25]));
        assert_eq!(label(0.0, -2.0, Transform::Logistic), (0, [2.0, -2.0]));
    }
}
