! Every call that may be compressed as Fortran programs make it: use mpi, or (-DF08) use mpi_f08 without error codes.
! Rank 0 prints "name error" lines: the worst rank's relative error of the sums.
#ifdef F08
#define CODE
#define LAST
#else
#define CODE , code
#define LAST code
#endif
program fortran
#ifdef F08
  use mpi_f08
  implicit none
  type(MPI_Request) :: request
#else
  use mpi
  implicit none
  integer :: request, code
#endif
  integer, parameter :: n = 20000
  integer :: rank, ranks, provided, all, i
  real, allocatable :: x(:), y(:)
  double precision, allocatable :: wide(:), right(:)
  integer, allocatable :: counts(:)

  call mpi_init_thread(MPI_THREAD_MULTIPLE, provided CODE)
  call mpi_comm_rank(MPI_COMM_WORLD, rank CODE)
  call mpi_comm_size(MPI_COMM_WORLD, ranks CODE)
  all = n * ranks
  allocate(x(all), y(all), wide(all), right(all), counts(ranks))
  right = 0
  do i = 0, ranks - 1
    right = right + gradient(i)
  end do
  x = real(gradient(rank))

  y = x
  call mpi_allreduce(MPI_IN_PLACE, y, all, MPI_REAL, MPI_SUM, MPI_COMM_WORLD CODE)
  call say("allreduce_in_place", dble(y), right)
  call mpi_allreduce(x, y, all, MPI_REAL, MPI_SUM, MPI_COMM_WORLD CODE)
  call say("allreduce", dble(y), right)
  wide = gradient(rank)
  call mpi_allreduce(MPI_IN_PLACE, wide, all, MPI_DOUBLE_PRECISION, MPI_SUM, MPI_COMM_WORLD CODE)
  call say("allreduce_double", wide, right)
  call mpi_iallreduce(x, y, all, MPI_REAL, MPI_SUM, MPI_COMM_WORLD, request CODE)
  call mpi_wait(request, MPI_STATUS_IGNORE CODE)
  call say("iallreduce", dble(y), right)
  y = real(right)
  call mpi_reduce(x, y, all, MPI_REAL, MPI_SUM, 0, MPI_COMM_WORLD CODE)
  call say("reduce", dble(y), right)
  call mpi_reduce_scatter_block(x, y, n, MPI_REAL, MPI_SUM, MPI_COMM_WORLD CODE)
  call say("reduce_scatter_block", dble(y(:n)), right(rank * n + 1:(rank + 1) * n))
  counts = n
  call mpi_reduce_scatter(x, y, counts, MPI_REAL, MPI_SUM, MPI_COMM_WORLD CODE)
  call say("reduce_scatter", dble(y(:n)), right(rank * n + 1:(rank + 1) * n))
  y = 0
  if (rank == 0) y = real(right)
  call mpi_bcast(y, all, MPI_REAL, 0, MPI_COMM_WORLD CODE)
  call say("broadcast", dble(y), right)
  x(:n) = real(right(rank * n + 1:(rank + 1) * n))
  call mpi_allgather(x, n, MPI_REAL, y, n, MPI_REAL, MPI_COMM_WORLD CODE)
  call say("all_gather", dble(y), right)
  call mpi_finalize(LAST)

contains

  function gradient(r)
    integer, intent(in) :: r
    double precision :: gradient(all)
    integer :: k
    gradient = [(sin(dble(k) * 1.7d0 + dble(r) * 0.9d0), k = 1, all)]
  end function

  subroutine say(name, got, wanted)
    character(*), intent(in) :: name
    double precision, intent(in) :: got(:), wanted(:)
    double precision :: error, most
    error = sqrt(sum((got - wanted)**2) / sum(wanted**2))
    call mpi_reduce(error, most, 1, MPI_DOUBLE_PRECISION, MPI_MAX, 0, MPI_COMM_WORLD CODE)
    if (rank == 0) print "(a, 1x, es14.6)", name, most
  end subroutine
end program
