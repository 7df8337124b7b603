"""Which of the two kinds of bundle this is."""

from gateway.worker.backend import Backend, Host
from gateway.worker.transformers.decoder import DecoderBackend
from gateway.worker.transformers.encoder import EncoderBackend
from gateway.worker.transformers.loading import DECODER
from gateway.worker.transformers.tenant import Tenant
from protos.contract.bundle import Bundle


def open_backend(bundle: Bundle, host: Host) -> Backend:
    """Load a bundle; what it took is given back when it is refused.

    Raises:
        BackendFailed, BaseInvalid, FieldInvalid, DigestMalformed: What is wrong with it.
    """
    tenant = Tenant(bundle, host)
    try:
        return (DecoderBackend if tenant.settings.kind == DECODER else EncoderBackend)(bundle, tenant)
    except BaseException:
        tenant.leave()
        raise
