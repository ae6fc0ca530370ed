//! The settings that all members share, and their history.

use super::operations::{OF_BODIES, OF_CLUSTER, OF_CONTROL, flag};
use super::{Api, Operation};
use crate::node::handle::settings::{RollbackRequest, Settings, SettingsHistory, SettingsRequest};

const SETTINGS: &str = "Settings";

pub(super) fn describe(api: &mut Api) {
    let settings = api.schema::<Settings>();
    let dry_run = || flag("dry_run", "`true`: only tell what it would change.");
    let operation =
        Operation::new("settings", SETTINGS, "The settings in force, and which members have them")
            .answers_json("All of them.", settings.clone())
            .fails(OF_CLUSTER);
    api.add("get", "/v1/settings", operation);
    let request = api.schema::<SettingsRequest>();
    let operation = Operation::new("changeSettings", SETTINGS, "Change settings, all or none")
        .takes([dry_run()])
        .body("application/json", request, true)
        .answers_json("All settings as they are now, and what was changed.", settings.clone())
        .fails(&[(400, &["invalid_settings"])])
        .fails(OF_CLUSTER)
        .fails(OF_CONTROL)
        .fails(OF_BODIES);
    api.add("patch", "/v1/settings", operation);
    let history = api.schema::<SettingsHistory>();
    let operation = Operation::new("settingsHistory", SETTINGS, "Every change of the settings that is kept")
        .answers_json("The newest first.", history)
        .fails(OF_CLUSTER);
    api.add("get", "/v1/settings/history", operation);
    let request = api.schema::<RollbackRequest>();
    let operation = Operation::new(
        "rollBackSettings",
        SETTINGS,
        "Bring all settings back to what they were after a version",
    )
    .says("It is a change like any other, with a version of its own.")
    .takes([dry_run()])
    .body("application/json", request, true)
    .answers_json("All settings as they are now, and what was changed.", settings)
    .fails(&[(400, &["invalid_settings"]), (404, &["unknown_version"])])
    .fails(OF_CLUSTER)
    .fails(OF_CONTROL)
    .fails(OF_BODIES);
    api.add("post", "/v1/settings/rollback", operation);
}
