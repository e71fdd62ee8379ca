using System.Globalization;
using FramePin.Server.Mapping;
using Google.Protobuf;
using Grpc.Core;
using Microsoft.AspNetCore.Http.Features;

namespace FramePin.Server.Telemetry;

/// <summary>
/// Adds an ErrorInfo to the refusals that gRPC makes before a handler runs: message too large, malformed, no such
/// method.
/// </summary>
internal sealed class StatusDetailsMiddleware(RequestDelegate next)
{
    private const string StatusHeader = "grpc-status";
    private const string MessageHeader = "grpc-message";
    private const string DetailsHeader = "grpc-status-details-bin";

    public async Task InvokeAsync(HttpContext context)
    {
        await next(context).ConfigureAwait(false);
        if (!context.Response.HasStarted && context.Response.Headers.ContainsKey(StatusHeader))
        {
            Explain(context.Response.Headers);
            return;
        }

        var trailers = context.Features.Get<IHttpResponseTrailersFeature>()?.Trailers;
        if (trailers is { IsReadOnly: false }) Explain(trailers);
    }

    private static void Explain(IHeaderDictionary headers)
    {
        if (!headers.TryGetValue(StatusHeader, out var text) || headers.ContainsKey(DetailsHeader)) return;
        if (!int.TryParse(text, CultureInfo.InvariantCulture, out var number) || number == 0) return;
        var message = Uri.UnescapeDataString(headers[MessageHeader].ToString());
        var code = (StatusCode)number;
        // The interceptor turns every exception of a handler into a refusal with details. UNKNOWN without details comes
        // from before it: the bytes are no message of this method, which is the caller's mistake.
        if (code == StatusCode.Unknown)
        {
            code = StatusCode.InvalidArgument;
            message = "the bytes received are no message of this method";
            headers[StatusHeader] = ((int)code).ToString(CultureInfo.InvariantCulture);
            headers[MessageHeader] = Uri.EscapeDataString(message);
        }

        headers[DetailsHeader] = Convert.ToBase64String(Refusals.Explain(code, message).ToByteArray()).TrimEnd('=');
    }
}
