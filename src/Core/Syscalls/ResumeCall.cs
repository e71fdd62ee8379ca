using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Kernel;

namespace FramePin.Core.Syscalls;

/// <summary>
/// The rest of a call that waited at a fault of a handler outside: the fault may be tried anew. It may wait again.
/// </summary>
/// <param name="Space">The address space of the call.</param>
/// <param name="Rest">What the call has left to do.</param>
/// <returns>The call's answer.</returns>
/// <remarks>
/// Source: mm/gup.c: __mm_populate, fixup_user_fault; mm/madvise.c: madvise_populate, madvise_inject_error: each looks
/// its areas up anew behind a fault that let mmap_lock go.
/// </remarks>
public readonly record struct ResumeCall(SpaceId Space, CallRest Rest) : ISyscall<ResumeCall>, IInvalidating
{
    public void AddTaken(in Turn turn, ICollection<TakenRange> taken)
    {
        var range = new AddressRange(Rest.At, Rest.End);
        if (AsAdvice is { } advice)
            new MadviseCall(Space, range.Start, range.Length, advice).AddTaken(turn, taken);
        else if (Rest.Kind == CallRestKind.FixupWrite)
            TakenRanges.AddStores(turn.Kernel, Space, range.Start, 1, taken);
        else if (Rest.Kind != CallRestKind.FixupRead)
            TakenRanges.AddPopulated(turn.Kernel, turn.Kernel.Space(Space), range, taken);
    }

    public SyscallResult Run(in Turn turn)
    {
        var kernel = turn.Kernel;
        if (kernel.Space(Space) is not { Exited: false } space) return Errno.ESRCH;
        // A log of other bytes: no call leaves such a rest.
        if (Rest.End < Rest.At || !Enum.IsDefined(Rest.Kind)) return Errno.EINVAL;
        if (AsAdvice is { } advice)
        {
            var rest = MadviseCall.Run(kernel, space, Rest.At, Rest.End - Rest.At, advice);
            return rest.IsOk || rest.Rest is not null ? rest : SyscallResult.Fail(rest.Error, isPartial: true);
        }

        if (Rest.Kind is CallRestKind.FixupRead or CallRestKind.FixupWrite)
            return UserAccess.FixupFault(
                kernel, space, Rest.At, Rest.Kind == CallRestKind.FixupWrite, wasUnlocked: true);
        return ((Rest.At | Rest.End) & ~PageGeometry.PageMask) != 0
            ? Errno.EINVAL
            : MlockCalls.Populate(kernel, space, new AddressRange(Rest.At, Rest.End), Rest.Kind, Rest.Value);
    }

    public void Write(CommandWriter writer) =>
        writer.Add(Space).Add(Rest.At).Add(Rest.End).Add((int)Rest.Kind).Add(Rest.Value);

    public static ResumeCall Read(ref CommandReader reader) => new(
        reader.Space(), new CallRest(reader.U64(), reader.U64(), (CallRestKind)reader.I32(), reader.U64()));

    private Advice? AsAdvice => Rest.Kind switch
    {
        CallRestKind.PopulateRead => Advice.PopulateRead,
        CallRestKind.PopulateWrite => Advice.PopulateWrite,
        CallRestKind.HwPoison => Advice.HwPoison,
        _ => null,
    };
}
