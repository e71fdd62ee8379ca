using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Kernel;

namespace FramePin.Core.Pinning;

/// <summary>
/// A machine as the rooms between Pinning and Machines see it: the calls there are made of several pins and commands,
/// each with a turn of its own or none.
/// </summary>
/// <remarks>Any thread. A vector is used by one thread at a time.</remarks>
public interface IPinHost
{
    KernelProfile Profile { get; }

    /// <summary>TASK_SIZE_MAX of the machine's processor, in bytes.</summary>
    ulong TaskSize { get; }

    /// <summary>frame_vector_create: null for 0 slots and above 134,217,727. The caller destroys it.</summary>
    FrameVector? CreateVector(long slots);

    /// <summary>frame_vector_destroy. False when frames are still held: put first (row 9).</summary>
    bool DestroyVector(FrameVector vector);

    /// <summary>Pins. Takes the turn only for pages that are not resident.</summary>
    PinOutcome Pin(in PinRequest request, FrameVector vector);

    /// <summary>put_vaddr_frames: drops one reference a frame if the vector holds any. Idempotent.</summary>
    void Put(FrameVector vector, bool isDirty);

    /// <summary>Copies bytes of a vector's frames, as a device does by DMA.</summary>
    int CopyFrames(FrameVector vector, ulong offset, Span<byte> buffer, bool isWrite, out Errno error);

    /// <summary>Runs a command under the turn.</summary>
    TResult Execute<TCommand, TResult>(in TCommand command)
        where TCommand : ICommand<TCommand, TResult>, allows ref struct;

    /// <summary>Looks at the machine under the turn.</summary>
    TResult Query<TQuery, TResult>(in TQuery query)
        where TQuery : IQuery<TResult>, allows ref struct;
}

/// <summary>
/// Waits, without a turn, at a fault of a handler outside or of the fault plan: true when the fault may be tried anew,
/// false when the caller was killed.
/// </summary>
/// <param name="space">The address space of the fault.</param>
/// <param name="address">Its address, in bytes.</param>
public delegate bool FaultWait(SpaceId space, ulong address);

/// <summary>What calls made of several pins have in common.</summary>
public static class PinHostExtensions
{
    /// <summary>
    /// A pin inside a call that answers when all is done. Where it has to wait it does so by <paramref name="wait"/>;
    /// without that it is killed there, and ends with the pages that it has.
    /// </summary>
    public static GupResult PinToEnd(
        this IPinHost host, in PinRequest request, FrameVector vector, FaultWait? wait)
    {
        var outcome = host.Pin(request, vector);
        while (outcome.Parked is { } parked)
        {
            var goesOn = wait is not null && wait(parked.Space, parked.Address);
            var resume = new ResumePinCall(parked.Id, IsKilled: !goesOn);
            if (host.Execute<ResumePinCall, PinOutcome?>(resume) is not { } ended) break;
            outcome = ended;
        }

        return outcome.Result;
    }

    /// <summary>Runs a command that answers as a system call does.</summary>
    public static SyscallResult Call<TCommand>(this IPinHost host, in TCommand command)
        where TCommand : ISyscall<TCommand>, allows ref struct =>
        host.Execute<TCommand, SyscallResult>(command);
}

/// <summary>A vector for the length of one call: put and destroyed at its end.</summary>
internal readonly ref struct HeldVector(IPinHost host, long slots)
{
    public FrameVector Vector { get; } = host.CreateVector(slots)
        ?? throw new ArgumentOutOfRangeException(nameof(slots));

    public void Dispose()
    {
        host.Put(Vector, isDirty: false);
        host.DestroyVector(Vector);
    }
}
