//! The contract of `store/mod.rs`, promise by promise: one suite for every store.
//!
//! A promise is a function in `store_contract/` that gets a [`Bench`] with an empty store. The list
//! at the end of this file names each promise once and runs it against each store; a function that
//! is missing from the list is dead code, which the compiler tells. After each one the store's own
//! `fsck` must find nothing.

#![expect(unreachable_pub, reason = "the parts of one test program, not an interface")]
#![expect(clippy::unwrap_used, reason = "a call that must not fail fails its test")]

mod support;

#[path = "store_contract/bench.rs"]
mod bench;
#[path = "store_contract/caps.rs"]
mod caps;
#[path = "store_contract/changing.rs"]
mod changing;
#[path = "store_contract/claiming.rs"]
mod claiming;
#[path = "store_contract/finishing.rs"]
mod finishing;
#[path = "store_contract/fleet.rs"]
mod fleet;
#[path = "store_contract/leasing.rs"]
mod leasing;
#[path = "store_contract/logs.rs"]
mod logs;
#[path = "store_contract/packing.rs"]
mod packing;
#[path = "store_contract/pushing.rs"]
mod pushing;
#[path = "store_contract/reading.rs"]
mod reading;
#[path = "store_contract/redis_keys.rs"]
mod redis_keys;
#[path = "store_contract/submitting.rs"]
mod submitting;
#[path = "store_contract/waiting.rs"]
mod waiting;

/// One test per promise, each on a store of its own that `$open` makes with the given terms.
macro_rules! keeps {
    ($open:path, $terms:path: $($area:ident { $($promise:ident,)* })*) => {
        $(mod $area {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $promise() {
                let bench = $open($terms).await;
                crate::$area::$promise(&bench).await;
                bench.assert_consistent().await;
            })*
        })*
    };
}

/// What every store promises.
macro_rules! keeps_the_contract {
    ($open:path) => {
        mod patient {
            keeps! { $open, crate::bench::PATIENT:
            submitting {
                a_submitted_job_is_queued_as_it_was_asked_for,
                a_known_id_is_answered_with_the_known_job,
                an_id_stays_known_in_every_state,
                a_known_idempotency_key_is_answered_with_the_first_job,
                an_idempotency_key_is_free_when_its_record_is_gone,
                one_call_queues_many_in_order,
                an_empty_call_does_nothing,
                a_large_call_is_one_call,
                bytes_are_kept_exactly,
                a_prompt_may_have_a_megabyte,
                a_delayed_job_runs_when_it_is_due,
                a_claim_finds_what_is_due_without_a_heartbeat,
            }
            claiming {
                jobs_of_one_priority_run_in_the_order_of_their_submission,
                a_higher_priority_runs_first,
                a_claim_says_whether_there_is_more,
                a_claimed_job_runs_on_its_worker,
                a_repeated_call_gets_the_same_jobs,
                a_repeated_call_that_got_nothing_gets_nothing,
                a_repeated_call_does_not_bring_back_what_has_ended,
                an_old_call_never_claims,
                an_old_call_still_ends_attempts,
                each_claim_has_a_larger_fence,
                no_job_is_claimed_twice_by_workers_at_the_same_time,
                a_stranger_gets_nothing,
                who_wants_nothing_gets_nothing,
            }
            finishing {
                an_end_is_written_with_its_result,
                each_terminal_state_is_kept,
                a_repeated_end_is_accepted_once,
                    a_repeated_end_is_accepted_whatever_came_after_it,
                the_first_end_of_an_attempt_stands,
                a_repeated_hand_back_is_one,
                an_older_attempt_cannot_end_a_newer_one,
                the_end_of_a_deleted_job_is_unknown,
                ends_and_claims_share_one_call,
                handed_back_jobs_run_before_all_others_of_their_priority,
                a_job_to_be_tried_again_is_queued,
                a_backoff_is_waited_for,
                a_delayed_hand_back_goes_to_the_head,
                each_count_has_its_counter,
                a_deferred_job_comes_back_when_it_is_due,
                a_waiting_job_holds_nothing,
                the_next_attempt_knows_what_the_last_one_reported,
                a_canceled_attempt_is_not_tried_again,
                an_end_that_beats_a_cancel_stands,
            }
            fleet {
                a_registered_worker_is_shown,
                registering_again_refreshes_the_record,
                a_new_incarnation_of_a_pod_takes_over_at_once,
                an_old_incarnation_does_not_come_back,
                workers_that_share_a_host_name_live_together,
                a_worker_known_to_be_dead_loses_its_jobs_at_once,
                a_paused_fleet_claims_nothing_and_finishes_what_runs,
                the_fleet_runs_no_more_than_its_limit,
                a_draining_worker_claims_nothing_more,
                a_drain_wakes_the_worker,
                nobody_can_drain_an_unknown_worker,
                who_leaves_hands_back_what_is_left,
                a_quarantine_is_shown_until_it_is_over,
                limits_are_shown_by_name,
            }
            packing {
                a_worker_steps_back_once_for_lower_ordinals_with_room,
                a_worker_does_not_step_back_when_there_is_more_than_others_can_take,
                the_lowest_worker_never_steps_back,
                nobody_steps_back_from_an_empty_queue,
                nobody_steps_back_for_who_will_not_claim,
                the_busy_floor_is_the_highest_busy_ordinal_and_one,
                a_draining_worker_does_not_hold_the_fleet_up,
                the_busy_floor_falls_when_a_worker_is_replaced,
            }
            caps {
                one_job_of_a_key_runs_at_a_time,
                a_key_may_allow_more_than_one,
                keys_do_not_disturb_each_other,
                parked_jobs_keep_their_order,
                a_place_is_free_when_its_holder_is_handed_back,
                a_handed_back_holder_runs_before_those_it_kept_waiting,
                a_place_is_free_when_its_holder_leaves,
                a_parked_job_can_be_canceled,
                a_place_is_not_lost_with_a_canceled_job,
                a_parked_job_can_be_retried_after_its_cancel,
                a_profile_runs_no_more_than_its_limit,
                a_raised_limit_lets_parked_jobs_go,
                a_limit_of_zero_stops_a_profile,
                a_job_under_two_caps_does_not_sit_on_a_place,
                a_profile_place_is_not_lost_with_a_canceled_job,
            }
            changing {
                a_cancel_ends_what_does_not_run,
                a_cancel_takes_only_its_own_job,
                a_cancel_reaches_a_running_job_at_once,
                a_retry_starts_an_ended_job_anew,
                a_retried_job_waits_its_turn,
                a_retry_continues_unless_it_is_to_start_afresh,
                an_end_of_before_a_retry_is_not_one_after_it,
                only_ended_jobs_can_be_deleted,
                a_deleted_job_leaves_its_id,
                nobody_can_change_an_unknown_job,
            }
            logs {
                what_is_appended_is_read_in_order,
                a_log_is_read_on_where_it_was_left,
                old_entries_can_be_dropped,
                only_the_current_attempt_writes,
                a_log_ends_with_the_end_of_its_job,
                every_end_is_in_the_log,
                a_reader_waits_for_the_first_entry,
                a_reader_of_nothing_is_answered_in_time,
                only_new_entries_can_be_asked_for,
                many_readers_see_the_same,
                the_fleets_log_has_every_transition,
                a_fleet_reader_is_told_of_changes_of_the_fleet,
                a_retried_job_goes_on_in_its_log,
            }
            reading {
                a_job_is_found_by_a_prefix_that_only_it_has,
                an_ended_job_is_found_by_a_prefix_too,
                lists_have_the_living_first_and_then_the_newest_end,
                lists_are_restricted_by_each_field,
                a_list_finds_the_one_among_many,
                an_empty_store_has_nothing,
                the_age_of_the_oldest_waiting_job_is_known,
                a_lock_has_one_owner,
                a_lock_that_is_not_renewed_is_free,
                a_dry_sweep_changes_nothing,
            }
            waiting {
                a_submitted_job_wakes_a_worker,
                a_job_handed_back_wakes_a_worker,
                work_that_is_there_already_is_not_waited_for,
                a_wait_ends_in_time,
                a_wait_that_is_dropped_loses_no_job,
                many_waiting_workers_are_all_served,
                a_poke_sent_before_the_wait_is_not_missed,
                a_resume_wakes_who_waits_for_a_transition,
                a_free_place_wakes_who_waits_for_a_transition,
            }
                    }
        }
        mod hasty {
            keeps! { $open, crate::bench::HASTY:
            leasing {
                a_renewed_lease_lasts,
                a_lease_that_is_not_renewed_is_taken_back,
                a_lost_attempt_is_refused_while_its_job_waits,
                a_job_that_loses_four_workers_is_dead,
                a_canceled_job_whose_worker_vanishes_is_canceled,
                no_lease_runs_out_because_the_store_was_away,
                a_gate_covers_the_deed,
                a_repeated_claim_renews_the_lease,
                a_heartbeat_names_what_else_the_worker_holds,
                a_verdict_is_given_for_each_attempt,
                a_canceled_attempt_keeps_its_lease_until_it_has_stopped,
                a_stranger_is_told_to_register,
                a_silent_worker_is_shown_as_lost,
            }
            packing {
                nobody_steps_back_for_who_is_silent,
            }
            caps {
                a_place_is_free_when_its_holder_crashes,
            }
                    }
        }
        mod forgetful {
            keeps! { $open, crate::bench::FORGETFUL:
            reading {
                ended_jobs_are_forgotten_in_time,
            }
                    }
        }
        mod frugal {
            keeps! { $open, crate::bench::FRUGAL:
                reading {
                    no_more_ended_jobs_are_kept_than_wanted,
                }
            }
        }
    };
}

mod redis {
    keeps_the_contract!(crate::bench::Bench::on_redis);

    /// What the Redis store promises beyond that.
    mod itself {
        keeps! { crate::bench::Bench::on_redis, crate::bench::PATIENT:
        pushing {
            a_pushed_job_runs,
            pushed_jobs_without_an_id_are_each_a_job,
            pushes_and_submits_share_one_order,
            a_push_at_the_head_runs_next,
            a_push_with_a_known_id_is_no_second_job,
            a_submit_of_a_pushed_id_is_the_pushed_job,
            pushed_bytes_are_kept_exactly,
            space_around_a_push_does_no_harm,
            a_pushed_prompt_may_have_a_megabyte,
            fields_have_their_older_names_too,
            a_field_that_is_null_is_missing,
            pushed_fields_have_their_effect,
            what_is_no_job_is_shown_with_the_reason,
            what_two_parsers_see_differently_is_not_lost,
            bytes_that_are_no_text_are_kept,
            a_push_that_is_too_large_is_refused,
            many_bad_pushes_do_not_block_the_queue,
                    no_push_blocks_the_queue,
            a_bad_push_can_be_queued_again_or_dropped,
            a_pushed_job_can_be_canceled_before_it_is_opened,
            a_push_wakes_a_worker,
        }
        redis_keys {
            the_length_of_the_list_is_the_number_of_runnable_jobs,
            autoscalers_can_count_what_runs_and_what_comes,
            all_keys_share_one_hash_slot,
            only_ended_jobs_expire,
            a_deleted_job_leaves_nothing,
            a_worker_that_left_leaves_nothing,
            scripts_are_loaded_again_when_they_are_gone,
            a_store_survives_the_kill_of_its_server,
            a_lost_reply_changes_nothing,
            a_lost_reply_appends_nothing_twice,
            a_server_that_may_evict_jobs_is_refused,
            a_client_is_told_when_there_is_no_server,
            a_wrong_password_is_a_wrong_setting,
        }
            }
    }
}
