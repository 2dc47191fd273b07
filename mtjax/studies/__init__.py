"""Studies and reports: what runs are compared by, and the pages that a reader judges them from.

Nothing is imported here, since `import mtjax` passes by and need not wait for scipy's statistics.

    score_frame      the table of scores: ScoreFrame, merge
    selection        choosing steps: select
    aggregates       mean_rank, normalised, by_tag, three_level_report, retention
    delta_m          delta_m
    across_tasks     iqm, optimality_gap, performance_profile, improvement, across_tasks
    pareto           pareto, non_dominated, hypervolume
    continual        accuracy, backward_transfer, forgetting, forward_transfer
    transfer         transfer_matrix, cluster_order, task_groups
    factor_splits    factor_splits, cg_gain
    compare          compare, compare_values
    intervals        estimate, interval, stratified
    significance     paired_t, wilcoxon, sign_flip, mcnemar, holm, friedman, minimal_detectable_effect
    power            coverage, power_table, null_rates
    run_report       the page of one run
    search           the arms of a sweep: grid, Search, Choice, Uniform, arm_name
    verdict          when a claim holds: better, not_worse, table, best_arm
    record           verdict.json of a study
    study_report     the page of a study, and its Markdown: write_study_report, render, markdown
    index            the page of all studies: write_index
"""
