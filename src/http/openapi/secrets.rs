//! Changing the cluster secret.

use super::operations::{OF_BODIES, OF_CLUSTER, OF_CONTROL, flag};
use super::{Api, Operation};
use crate::node::handle::secrets::{AddRequest, SecretState};

const SECRET: &str = "The cluster secret";

pub(super) fn describe(api: &mut Api) {
    let state = api.schema::<SecretState>();
    let told = "How far all members are, as far as this one knows.";
    let operation = Operation::new("secret", SECRET, "How far a change of the cluster secret is")
        .says("Secrets are named by ids that tell nothing about a good one.")
        .answers_json(told, state.clone())
        .fails(OF_CLUSTER);
    api.add("get", "/v1/secret", operation);
    let request = api.schema::<AddRequest>();
    let operation = Operation::new("addSecret", SECRET, "Accept a new secret beside the present one")
        .says("Taken over TLS or from the member's own machine only. Adding the same again changes nothing; another one takes its place, until it is used.")
        .body("application/json", request, true)
        .answers_json(told, state.clone())
        .fails(&[(400, &["invalid_secret"]), (403, &["not_private"]), (409, &["secret_step"])])
        .fails(OF_CLUSTER)
        .fails(OF_CONTROL)
        .fails(OF_BODIES);
    api.add("post", "/v1/secret/add", operation);
    let steps = [
        ("useSecret", "/v1/secret/use", "Offer the new secret first"),
        ("retireSecret", "/v1/secret/retire", "Accept the old secret no more"),
    ];
    for (id, path, summary) in steps {
        let operation = Operation::new(id, SECRET, summary)
            .says("Refused before every member of the roster has taken the step before.")
            .takes([flag("force", "`true`: leave out members that can't be heard.")])
            .answers_json(told, state.clone())
            .fails(&[(409, &["secret_step"])])
            .fails(OF_CLUSTER)
            .fails(OF_CONTROL);
        api.add("post", path, operation);
    }
}
