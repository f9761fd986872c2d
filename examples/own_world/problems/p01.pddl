(define (problem p01) (:domain painter)
  (:objects hall kitchen bath - room white blue - colour)
  (:init
    (door hall kitchen) (door kitchen hall)
    (door kitchen bath) (door bath kitchen)
    (pot white kitchen) (pot blue hall) (sink kitchen)
    (in bath) (clean)
    (bare hall) (wall kitchen blue) (wall bath white))
  (:goal (and (wall hall white) (wall bath white))))
