using System.Globalization;
using FramePin.Client;
using FramePin.V1;
using Grpc.Core;

namespace FramePin.Drivers;

/// <summary>The frame helper as a driver calls it.</summary>
public sealed partial class DriverKernel
{
    /// <summary>
    /// get_vaddr_frames into a new vector (drivers/media/common/videobuf2/frame_vector.c). Fewer pages than asked may
    /// be had; the errno is that of the first page.
    /// </summary>
    /// <param name="space">Name of the caller's address space.</param>
    /// <param name="start">Any byte of the first page.</param>
    /// <param name="pages">Pages of 4 KiB; 0 is -ENOMEM, since there is no such vector.</param>
    /// <param name="isWrite">The device writes.</param>
    /// <param name="isForce">FOLL_FORCE; heeded by the kernels that have it.</param>
    /// <param name="replaced">Frames to be put first, in the same message where that can be; null for none.</param>
    /// <param name="cancellationToken">Gives the pin up. A pin with a token that can be signalled is a call of its own,
    /// since a message on the driver's stream cannot be taken back.</param>
    /// <returns>The frames, which the driver puts; null with an errno.</returns>
    public async Task<(Errno Errno, PinnedFrames? Frames)> GetVaddrFramesAsync(
        string space, ulong start, ulong pages, bool isWrite, bool isForce, PutFrames? replaced = null,
        CancellationToken cancellationToken = default)
    {
        if (pages > 0 && !cancellationToken.CanBeCanceled && await TryPinOnLineAsync(
            space, start, pages, isWrite, isForce, replaced).ConfigureAwait(false) is { } pinned)
            return pinned;
        if (replaced is { } put) await PutAsync(put.Frames, put.IsDirty, cancellationToken).ConfigureAwait(false);
        if (pages == 0) return (Errno.ENOMEM, null);
        var request = new PinRequest
        {
            AddressSpace = space,
            Start = start,
            Pages = pages,
            Write = isWrite,
            Force = isForce,
            Lease = Lease,
            Attachment = _local?.Name ?? "",
        };
        try
        {
            var pin = await Client.Pinning.PinAsync(request, cancellationToken: cancellationToken)
                .TypedAsync(cancellationToken).ConfigureAwait(false);
            return (Errno.None, new PinnedFrames(
                pin.FrameVector, pin.Frames, pin.Kind == FrameKind.Pfns, pin.Runs, pin.Hold));
        }
        catch (FramePinException exception)
        {
            return (ErrnoOf(exception), null);
        }
    }

    /// <summary>The same over the driver's stream. Null: the stream is taken, and nothing was done.</summary>
    private async Task<(Errno Errno, PinnedFrames? Frames)?> TryPinOnLineAsync(
        string space, ulong start, ulong pages, bool isWrite, bool isForce, PutFrames? replaced)
    {
        var pin = new PinRange
        {
            AddressSpace = space,
            Start = start,
            Pages = pages,
            Write = isWrite,
            Force = isForce,
            WithFrames = true,
            Traceparent = PinLine.Traceparent,
        };
        var operations = new List<PinOperation>(2);
        if (replaced is { } put) operations.Add(ToUnpin(put.Frames, put.IsDirty));
        operations.Add(new PinOperation { Pin = pin });
        PinOperationResult result;
        try
        {
            if (await _line.TryRunAsync(operations).ConfigureAwait(false) is not { } results) return null;
            result = results[^1];
        }
        catch (RpcException exception)
        {
            return (ErrnoOf(FramePinException.From(exception)), null);
        }

        if (result.Errno != 0) return ((Errno)result.Errno, null);
        if (result.Refusal is { } refusal) return (ErrnoOf(FramePinException.From(refusal.ToRpcException())), null);
        var name = string.Create(CultureInfo.InvariantCulture, $"{Machine}/frameVectors/{result.FrameVector}");
        return (Errno.None, new PinnedFrames(
            name, result.Frames, result.Kind == FrameKind.Pfns, result.Runs, result.Hold));
    }

    /// <summary>pin_user_pages_fast into a new vector, for drivers without the helper (g2d since 5.12).</summary>
    /// <param name="space">Name of the caller's address space.</param>
    /// <param name="start">Any byte of the first page.</param>
    /// <param name="pages">Pages of 4 KiB; 0 is -EINVAL.</param>
    /// <param name="flags">FOLL_ flags.</param>
    /// <param name="cancellationToken">Gives the pin up.</param>
    /// <returns>The frames, perhaps fewer than asked, which the driver puts; null with an errno.</returns>
    public async Task<(Errno Errno, PinnedFrames? Frames)> PinUserPagesFastAsync(
        string space, ulong start, ulong pages, GupBits flags, CancellationToken cancellationToken = default)
    {
        if (pages == 0) return (Errno.EINVAL, null);
        var request = new GupRequest
        {
            AddressSpace = space,
            Function = GupFunction.PinUserPagesFast,
            Start = start,
            Pages = pages,
            Flags = (uint)flags,
            Lease = Lease,
        };
        try
        {
            var pin = await Client.Pinning.GupAsync(request, cancellationToken: cancellationToken)
                .TypedAsync(cancellationToken).ConfigureAwait(false);
            return (Errno.None, new PinnedFrames(pin.FrameVector, pin.Frames, isPfns: false, pin.Runs));
        }
        catch (FramePinException exception)
        {
            return (ErrnoOf(exception), null);
        }
    }

    /// <summary>
    /// vb2_create_framevec: pins the pages of [start, start + length), all of them or none. -ENOMEM when none are asked
    /// for, the helper's errno, or -EFAULT for fewer (Semantics 2.9).
    /// </summary>
    /// <param name="space">Name of the caller's address space.</param>
    /// <param name="start">First byte.</param>
    /// <param name="length">Bytes.</param>
    /// <param name="isWrite">The device writes.</param>
    /// <param name="replaced">Frames to be put first, also when the pin fails; null for none.</param>
    /// <param name="cancellationToken">Gives the pin up.</param>
    /// <returns>The frames, which the driver puts; null with an errno.</returns>
    public async Task<(Errno Errno, PinnedFrames? Frames)> CreateFramevecAsync(
        string space, ulong start, ulong length, bool isWrite, PutFrames? replaced = null,
        CancellationToken cancellationToken = default)
    {
        var first = start >> 12;
        var last = unchecked(start + length - 1) >> 12;
        var pages = unchecked(last - first + 1);
        // The vector's size and the helper's count are unsigned int.
        var (errno, frames) = await GetVaddrFramesAsync(
            space, start, (uint)pages, isWrite, isForce: Features.HelperForces, replaced,
            cancellationToken).ConfigureAwait(false);
        if (frames is null || frames.Count == pages) return (errno, frames);
        await PutAsync(frames, isDirty: false, CancellationToken.None).ConfigureAwait(false);
        return (Errno.EFAULT, null);
    }

    /// <summary>frame_vector_to_pages. False, and nothing changed, when a PFN has no struct page.</summary>
    /// <param name="frames">The vector.</param>
    /// <param name="cancellationToken">Gives the call up.</param>
    public async Task<bool> ToPagesAsync(PinnedFrames frames, CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(frames);
        if (!frames.IsPfns) return true;
        try
        {
            var request = new ConvertRequest { FrameVector = frames.Name, To = FrameKind.Pages, OmitFrames = true };
            await Client.Pinning.ConvertAsync(request, cancellationToken: cancellationToken)
                .TypedAsync(cancellationToken).ConfigureAwait(false);
            frames.IsPfns = false;
            return true;
        }
        catch (FramePinException exception) when (exception.StatusCode is StatusCode.FailedPrecondition
            or StatusCode.InvalidArgument)
        {
            return false;
        }
    }

    /// <summary>
    /// Marks every page dirty where the device wrote, then put_vaddr_frames and frame_vector_destroy. A vector that
    /// went with a lost lease is gone already, which is no error.
    /// </summary>
    /// <param name="frames">The vector, of which the driver has no view any more.</param>
    /// <param name="isDirty">The device wrote.</param>
    /// <param name="cancellationToken">Refuses the call before it begins. A put that has begun is finished.</param>
    public async Task PutAsync(PinnedFrames frames, bool isDirty, CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(frames);
        cancellationToken.ThrowIfCancellationRequested();
        try
        {
            if (await _line.TryRunAsync([ToUnpin(frames, isDirty)]).ConfigureAwait(false) is not null) return;
            var request = new UnpinRequest { FrameVector = frames.Name, Dirty = isDirty };
            if (frames.Hold != 0) (request.Attachment, request.Hold) = (_local!.Name, frames.Hold);
            await Client.Pinning.UnpinAsync(request, cancellationToken: CancellationToken.None).ConfigureAwait(false);
        }
        catch (RpcException exception)
        {
            // A vector that is gone was released with the lease or the machine.
            if (exception.StatusCode != StatusCode.NotFound) throw FramePinException.From(exception);
        }
    }

    private static PinOperation ToUnpin(PinnedFrames frames, bool isDirty) => new()
    {
        UnpinVector = new UnpinVector
        {
            FrameVector = ulong.Parse(
                frames.Name.AsSpan(frames.Name.LastIndexOf('/') + 1), CultureInfo.InvariantCulture),
            Dirty = isDirty,
            Hold = frames.Hold,
            Traceparent = PinLine.Traceparent,
        },
    };

    /// <summary>
    /// The kernel's errno. A limit of the daemon is memory that is out, and an address space that is gone has no pages.
    /// </summary>
    private static Errno ErrnoOf(FramePinException refusal)
    {
        if (refusal.Errno != 0) return (Errno)refusal.Errno;
        return refusal.StatusCode switch
        {
            StatusCode.ResourceExhausted => Errno.ENOMEM,
            StatusCode.NotFound => Errno.EFAULT,
            _ => throw refusal,
        };
    }
}
