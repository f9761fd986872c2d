(define (problem p06) (:domain painter)
  (:objects hall kitchen bath - room white blue - colour)
  (:init
    (door hall kitchen) (door kitchen hall)
    (door kitchen bath) (door bath kitchen)
    (pot white kitchen) (pot blue bath) (sink kitchen)
    (in kitchen) (clean)
    (bare hall) (wall kitchen white) (wall bath white))
  (:goal (and (wall kitchen blue) (wall bath white))))
