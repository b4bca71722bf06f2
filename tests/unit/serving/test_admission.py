"""admission: bounds on requests and bytes in flight, and the release of permits."""

from gpux.serving.admission import Admission


def test_no_more_requests_are_admitted_than_there_is_room_for() -> None:
    admission = Admission(3, 100)
    permits = [admission.admit(10) for _ in range(5)]
    assert [permit is not None for permit in permits] == [True, True, True, False, False]
    assert permits[0] is not None
    permits[0].release()
    assert admission.admit(10)
    assert not admission.admit(10)


def test_bytes_are_bounded_but_one_request_always_fits() -> None:
    admission = Admission(10, 100)
    large = admission.admit(500)
    assert large is not None
    assert not admission.admit(1)
    large.release()
    assert admission.admit(60)
    assert not admission.admit(60)
    assert admission.admit(40)


def test_a_permit_is_released_once() -> None:
    admission = Admission(1, 1)
    permit = admission.admit(1)
    assert permit is not None
    with permit:
        assert admission.requests == 1
    permit.release()
    assert admission.requests == 0
