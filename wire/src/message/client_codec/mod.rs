//! Client messages to and from FlatBuffers: what is sent and read as a whole here, a request's bodies in [`request`], an
//! answer's in [`response`], the larger answers in rooms of their own, enums in [`values`].

mod members;
mod reload;
mod request;
mod response;
mod status;
mod values;

use super::codec::{check_list, encode, verified};
use super::{
    ADDRESS_BYTES_MAX, ClientRequest, ClientRequestBody, ClientResponse, ClientResponseBody,
    MEMBERS_MAX, MessageError, STATUS_PARTITIONS_MAX,
};
use crate::generated::fb;
use reload::check_reload;
use request::{build_request_body, request_body};
use response::{build_response_body, response_body, response_bytes};
use status::{check_asked, check_partitions};

impl ClientRequest {
    /// Appends the message's FlatBuffers form to `out`.
    ///
    /// # Errors
    /// The message is larger than what a frame holds; `out` is then as it was.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), MessageError> {
        let bytes = match &self.body {
            ClientRequestBody::Append { payload, .. } => payload.len(),
            ClientRequestBody::Read { query, .. } => query.len(),
            ClientRequestBody::Status { .. }
            | ClientRequestBody::Placement
            | ClientRequestBody::Reload
            | ClientRequestBody::Mode { .. }
            | ClientRequestBody::Members { .. } => 0,
        };
        encode(out, bytes, |scratch| {
            let (body_type, body) = build_request_body(&mut scratch.builder, &self.body);
            fb::ClientRequest::create(
                &mut scratch.builder,
                &fb::ClientRequestArgs {
                    id: self.id,
                    body_type,
                    body: Some(body),
                },
            )
        })
    }

    /// Reads the message from the whole of `bytes`.
    ///
    /// # Errors
    /// The bytes are no such message; see [`MessageError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, MessageError> {
        let request = verified::<fb::ClientRequest<'_>>("ClientRequest", bytes, 2)?;
        Ok(Self {
            id: request.id(),
            body: request_body(request)?,
        })
    }
}

impl ClientResponse {
    /// Appends the message's FlatBuffers form to `out`.
    ///
    /// # Errors
    /// A status lists more than [`STATUS_PARTITIONS_MAX`] partitions, or members or nodes that were asked are more than [`MEMBERS_MAX`], or an address longer than [`ADDRESS_BYTES_MAX`], or a list of a reload is over its limit, or the message is larger than what a frame holds;
    /// `out` is then as it was.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), MessageError> {
        if let ClientResponseBody::Status(status) = &self.body {
            check_partitions(status.partitions.len())?;
            for partition in &status.partitions {
                check_asked(partition.asked.len())?;
            }
        }
        if let ClientResponseBody::Members(members) = &self.body {
            check_list("MembersReply.members", members.members.len(), MEMBERS_MAX)?;
        }
        if let ClientResponseBody::NotExecuted(refusal) = &self.body
            && let Some(at) = &refusal.leader_at
        {
            check_list(
                "Refusal.leader_address",
                at.address.len(),
                ADDRESS_BYTES_MAX,
            )?;
        }
        if let ClientResponseBody::Reload(reload) = &self.body {
            check_reload(reload)?;
        }
        encode(out, response_bytes(&self.body), |scratch| {
            let (body_type, body) = build_response_body(scratch, &self.body);
            fb::ClientResponse::create(
                &mut scratch.builder,
                &fb::ClientResponseArgs {
                    id: self.id,
                    body_type,
                    body: Some(body),
                },
            )
        })
    }

    /// Reads the message from the whole of `bytes`.
    ///
    /// # Errors
    /// The bytes are no such message, or a list in it is over its limit; see [`MessageError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, MessageError> {
        let response =
            verified::<fb::ClientResponse<'_>>("ClientResponse", bytes, 3 + STATUS_PARTITIONS_MAX)?;
        Ok(Self {
            id: response.id(),
            body: response_body(response)?,
        })
    }
}
