"""What a skops file may hold beside what skops itself trusts."""

# Types that skops does not trust by itself. Each was read: none runs code of the file's choosing
# when it is built or when its state is set. A hostile state can still make a compiled type give
# wrong numbers or crash, which the sha256 and the golden rows are for.
TRUSTED_TYPES = {
    "numpy.dtype": "an imputer's record of its input's dtype: a name and a layout",
    "sklearn.tree._tree.Tree": "the node table of every tree and forest",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor": (
        "the node table of histogram gradient boosting"
    ),
    "sklearn.compose._column_transformer.make_column_selector": "a pattern and dtypes",
    "sklearn.calibration._CalibratedClassifier": "a classifier with its calibrators",
    "sklearn.calibration._SigmoidCalibration": "two numbers of Platt scaling",
    "sklearn.calibration._TemperatureScaling": "one number",
    "sklearn.multiclass._ConstantPredictor": "one number, of a class that was always or never seen",
    "sklearn.impute._iterative._ImputerTriplet": "an estimator and the columns that it takes",
    "sklearn.utils._bunch.Bunch": "a dict, of a voter's or a stack's estimators by name",
    "functools.partial": "skops looks at the function in it as at any other",
    "sklearn.utils.validation.check_array": "in histogram boosting with categories: makes an array",
    "scipy._lib.array_api_compat.numpy._aliases.asarray": "in a spline: makes an array",
    "sklearn.neural_network._stochastic_optimizers.AdamOptimizer": "numbers left from training",
    "sklearn.neural_network._stochastic_optimizers.SGDOptimizer": "numbers left from training",
    "sklearn.feature_selection._univariate_selection.f_classif": "a score function of sklearn",
    "sklearn.feature_selection._univariate_selection.f_regression": "a score function of sklearn",
    "sklearn.feature_selection._univariate_selection.chi2": "a score function of sklearn",
    "sklearn.feature_selection._univariate_selection.r_regression": "a score function of sklearn",
    "sklearn.feature_selection._mutual_info.mutual_info_classif": "a score function of sklearn",
    "sklearn.feature_selection._mutual_info.mutual_info_regression": "a score function of sklearn",
    "sklearn.neighbors._kd_tree.KDTree": "the point table of nearest neighbours",
    "sklearn.neighbors._ball_tree.BallTree": "the point table of nearest neighbours",
    "sklearn.metrics._dist_metrics.EuclideanDistance64": "a metric without state",
    "sklearn.metrics._dist_metrics.ManhattanDistance64": "a metric without state",
    "sklearn.metrics._dist_metrics.MinkowskiDistance64": "a metric and its exponent",
    "sklearn.metrics._dist_metrics.ChebyshevDistance64": "a metric without state",
    "sklearn._loss.loss.HalfTweedieLoss": "a loss and its exponent",
    "sklearn._loss.loss.HalfTweedieLossIdentity": "a loss and its exponent",
    "sklearn.metrics._scorer._CurveScorer": "how a threshold was tuned; not called to predict",
    "sklearn.metrics._scorer._Scorer": "how a model was chosen; not called to predict",
    "sklearn.metrics._scorer._PassthroughScorer": "how a model was chosen; not called to predict",
    "sklearn.utils._metadata_requests.MetadataRequest": "names of parameters",
    "sklearn.utils._metadata_requests.MethodMetadataRequest": "names of parameters",
    "scipy.sparse._csr.csr_matrix": "three arrays",
    "scipy.interpolate._bsplines.BSpline": "knots and coefficients",
}

# What a search, a stack or a calibration keeps of its training, which nothing calls to predict.
TRUSTED_TYPES |= {
    f"sklearn.model_selection._split.{name}": "how rows were split: numbers"
    for name in (
        "GroupKFold", "GroupShuffleSplit", "KFold", "LeaveOneOut", "PredefinedSplit",
        "RepeatedKFold", "RepeatedStratifiedKFold", "ShuffleSplit", "StratifiedGroupKFold",
        "StratifiedKFold", "StratifiedShuffleSplit", "TimeSeriesSplit", "_CVIterableWrapper",
    )
} | {
    f"sklearn.metrics.{name}": "a score function of sklearn"
    for name in (
        "_classification.accuracy_score", "_classification.balanced_accuracy_score",
        "_classification.brier_score_loss", "_classification.f1_score",
        "_classification.fbeta_score", "_classification.jaccard_score", "_classification.log_loss",
        "_classification.matthews_corrcoef", "_classification.precision_score",
        "_classification.recall_score", "_ranking.average_precision_score",
        "_ranking.roc_auc_score", "_ranking.top_k_accuracy_score",
        "_regression.explained_variance_score", "_regression.max_error",
        "_regression.mean_absolute_error", "_regression.mean_absolute_percentage_error",
        "_regression.mean_gamma_deviance", "_regression.mean_pinball_loss",
        "_regression.mean_poisson_deviance", "_regression.mean_squared_error",
        "_regression.mean_squared_log_error", "_regression.median_absolute_error",
        "_regression.r2_score", "_regression.root_mean_squared_error",
        "_regression.root_mean_squared_log_error",
    )
}  # fmt: skip
