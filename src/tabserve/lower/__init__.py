"""Lowering: a fitted model becomes an exact ONNX graph in double precision. Only packing needs it.

Each lowering computes step for step as the library does; parity then proves that it did.
"""

from dataclasses import dataclass
from typing import Any

from tabserve.lower import (
    ada_boost,
    bagging,
    bayes,
    bins,
    calibration,
    catboost,
    cluster,
    compose,
    dummy,
    encode,
    gradient,
    histogram,
    impute,
    lightgbm,
    linear,
    multiple,
    neural,
    polynomial,
    power,
    project,
    quantiles,
    scale,
    select,
    spline,
    trees,
    ufuncs,
    voting,
    wrappers,
    xgboost,
)
from tabserve.lower.cuts import cuts
from tabserve.lower.graph import INPUT as INPUT
from tabserve.lower.graph import CannotLower as CannotLower
from tabserve.lower.graph import Column, Matrix, Vocabulary
from tabserve.lower.lowering import Lowering, Splits
from tabserve.lowered import Lowered
from tabserve.signature import Feature, Signature
from tabserve.types import Parts

TRANSFORMERS = {
    "Binarizer": scale.binarizer,
    "ColumnTransformer": compose.column_transformer,
    "FeatureUnion": compose.feature_union,
    "FunctionTransformer": ufuncs.function_transformer,
    "GenericUnivariateSelect": select.selector,
    "IncrementalPCA": project.pca,
    "KBinsDiscretizer": bins.k_bins_discretizer,
    "MaxAbsScaler": scale.max_abs_scaler,
    "MinMaxScaler": scale.min_max_scaler,
    "MissingIndicator": impute.missing_indicator,
    "Normalizer": project.normalizer,
    "OneHotEncoder": encode.one_hot_encoder,
    "OrdinalEncoder": encode.ordinal_encoder,
    "PCA": project.pca,
    "Pipeline": compose.pipeline,
    "PolynomialFeatures": polynomial.polynomial_features,
    "PowerTransformer": power.power_transformer,
    "QuantileTransformer": quantiles.quantile_transformer,
    "RFE": select.selector,
    "RFECV": select.selector,
    "RobustScaler": scale.robust_scaler,
    "SelectFdr": select.selector,
    "SelectFpr": select.selector,
    "SelectFromModel": select.selector,
    "SelectFwe": select.selector,
    "SelectKBest": select.selector,
    "SelectPercentile": select.selector,
    "SequentialFeatureSelector": select.selector,
    "SimpleImputer": impute.simple_imputer,
    "SplineTransformer": spline.spline_transformer,
    "StandardScaler": scale.standard_scaler,
    "TargetEncoder": encode.target_encoder,
    "TruncatedSVD": project.truncated_svd,
    "VarianceThreshold": select.selector,
}

PREDICTORS = {
    "ARDRegression": linear.linear_regressor,
    "AdaBoostClassifier": ada_boost.ada_boost_classifier,
    "AdaBoostRegressor": ada_boost.ada_boost_regressor,
    "BaggingClassifier": bagging.bagging_classifier,
    "BaggingRegressor": bagging.bagging_regressor,
    "BayesianRidge": linear.linear_regressor,
    "CalibratedClassifierCV": calibration.calibrated_classifier,
    "CatBoostClassifier": catboost.classifier,
    "CatBoostRegressor": catboost.regressor,
    "DecisionTreeClassifier": trees.decision_tree_classifier,
    "DecisionTreeRegressor": trees.decision_tree_regressor,
    "DummyClassifier": dummy.dummy_classifier,
    "DummyRegressor": dummy.dummy_regressor,
    "ElasticNet": linear.linear_regressor,
    "ElasticNetCV": linear.linear_regressor,
    "ExtraTreeClassifier": trees.decision_tree_classifier,
    "ExtraTreeRegressor": trees.decision_tree_regressor,
    "ExtraTreesClassifier": trees.forest_classifier,
    "ExtraTreesRegressor": trees.forest_regressor,
    "FixedThresholdClassifier": wrappers.fixed_threshold,
    "FrozenEstimator": wrappers.frozen,
    "GammaRegressor": linear.generalized_linear_regressor,
    "GaussianNB": bayes.gaussian_naive_bayes,
    "GradientBoostingClassifier": gradient.gradient_boosting_classifier,
    "GradientBoostingRegressor": gradient.gradient_boosting_regressor,
    "GridSearchCV": wrappers.search,
    "HalvingGridSearchCV": wrappers.search,
    "HalvingRandomSearchCV": wrappers.search,
    "HistGradientBoostingClassifier": histogram.hist_gradient_boosting_classifier,
    "HistGradientBoostingRegressor": histogram.hist_gradient_boosting_regressor,
    "HuberRegressor": linear.linear_regressor,
    "IsolationForest": bagging.isolation_forest,
    "KMeans": cluster.k_means,
    "LGBMClassifier": lightgbm.classifier,
    "LGBMRegressor": lightgbm.regressor,
    "Lars": linear.linear_regressor,
    "LarsCV": linear.linear_regressor,
    "Lasso": linear.linear_regressor,
    "LassoCV": linear.linear_regressor,
    "LassoLars": linear.linear_regressor,
    "LassoLarsCV": linear.linear_regressor,
    "LassoLarsIC": linear.linear_regressor,
    "LinearDiscriminantAnalysis": linear.logistic_classifier,
    "LinearRegression": linear.linear_regressor,
    "LinearSVC": linear.linear_classifier,
    "LinearSVR": linear.linear_regressor,
    "LogisticRegression": linear.logistic_classifier,
    "LogisticRegressionCV": linear.logistic_classifier,
    "MLPClassifier": neural.mlp_classifier,
    "MLPRegressor": neural.mlp_regressor,
    "MiniBatchKMeans": cluster.k_means,
    "MultiOutputClassifier": multiple.multi_output,
    "MultiOutputRegressor": multiple.multi_output,
    "MultiTaskElasticNet": linear.linear_regressor,
    "MultiTaskElasticNetCV": linear.linear_regressor,
    "MultiTaskLasso": linear.linear_regressor,
    "MultiTaskLassoCV": linear.linear_regressor,
    "OneVsOneClassifier": multiple.one_vs_one,
    "OneVsRestClassifier": multiple.one_vs_rest,
    "OrthogonalMatchingPursuit": linear.linear_regressor,
    "OrthogonalMatchingPursuitCV": linear.linear_regressor,
    "PassiveAggressiveClassifier": linear.linear_classifier,
    "PassiveAggressiveRegressor": linear.linear_regressor,
    "Perceptron": linear.linear_classifier,
    "Pipeline": compose.pipeline_predictor,
    "PoissonRegressor": linear.generalized_linear_regressor,
    "QuantileRegressor": linear.linear_regressor,
    "RANSACRegressor": wrappers.ransac,
    "RFE": select.eliminating_predictor,
    "RFECV": select.eliminating_predictor,
    "RandomForestClassifier": trees.forest_classifier,
    "RandomForestRegressor": trees.forest_regressor,
    "RandomizedSearchCV": wrappers.search,
    "RegressorChain": multiple.regressor_chain,
    "Ridge": linear.linear_regressor,
    "RidgeCV": linear.linear_regressor,
    "RidgeClassifier": linear.linear_classifier,
    "RidgeClassifierCV": linear.linear_classifier,
    "SGDClassifier": linear.sgd_classifier,
    "SGDRegressor": linear.linear_regressor,
    "StackingClassifier": voting.stacking,
    "StackingRegressor": voting.stacking,
    "TheilSenRegressor": linear.linear_regressor,
    "TransformedTargetRegressor": wrappers.transformed_target,
    "TunedThresholdClassifierCV": wrappers.tuned_threshold,
    "TweedieRegressor": linear.generalized_linear_regressor,
    "VotingClassifier": voting.voting_classifier,
    "VotingRegressor": voting.voting_regressor,
    "XGBClassifier": xgboost.classifier,
    "XGBRFClassifier": xgboost.classifier,
    "XGBRFRegressor": xgboost.regressor,
    "XGBRegressor": xgboost.regressor,
    "_ConstantPredictor": dummy.constant_predictor,
}


@dataclass(frozen=True)
class LoweredModel:
    """graph: the file that gives the scores of each target.
    refused: the file of what must be finite, where there is any.
    splits: the file of what each ensemble of trees decides on, and its thresholds by column.
    """

    plan: Lowered
    graph: bytes
    refused: bytes | None
    splits: bytes | None
    thresholds: list[Splits]


def lower(model: Any, signature: Signature, parts: Parts) -> LoweredModel:
    """The model's graph, and what stands around it.

    parts: where the probability of one class only is asked for, no other is computed.
    Raises CannotLower, naming the step that has no exact graph.
    """
    matrix = input_matrix(signature)
    columns = matrix.columns
    lowering = Lowering(TRANSFORMERS, PREDICTORS, matrix, parts)
    scores = lowering.predict(model, matrix)
    graph = lowering.graph
    vocabularies = {
        column.name: tuple(column.vocabulary.values)
        for column in columns
        if column.vocabulary is not None
    }

    def file(values: list[str], prefix: str) -> bytes | None:
        named = {f"{prefix}_{i}": value for i, value in enumerate(values)}
        return graph.model(len(columns), named) if named else None

    main = file([score.value for score in scores], "scores")
    assert main is not None
    return LoweredModel(
        plan=Lowered(
            vocabularies=vocabularies,
            links=tuple(score.link for score in scores),
            cuts=cuts(lowering.trees, len(columns)),
        ),
        graph=main,
        refused=file(list(dict.fromkeys(lowering.refused_if_infinite)), "finite"),
        splits=file([value for value, _ in lowering.splits], "split"),
        thresholds=[thresholds for _, thresholds in lowering.splits],
    )


def input_matrix(signature: Signature) -> Matrix:
    """What the graph takes: a column for each feature, in their order."""
    columns = (_column(feature, place) for place, feature in enumerate(signature.features))
    return Matrix(INPUT, tuple(columns))


def _column(feature: Feature, place: int) -> Column:
    if feature.type == "datetime":
        raise CannotLower(f"the dates of {feature.name}")
    # Among Python objects a missing number is NaN, unless it is None.
    is_none = feature.dtype == "object" and feature.missing == "none"
    if feature.type == "string" or feature.dtype == "category" or is_none:
        return Column(place, feature.name, Vocabulary(), feature.missing == "none")
    return Column(place, feature.name)
